// What went wrong, for scripts (the exit code) and for people (what to do).
#ifndef HGA_CLIENT_EXIT_CODE_H_
#define HGA_CLIENT_EXIT_CODE_H_

#include <string>

#include "absl/status/status.h"

namespace hga {

enum ExitCode {
  kExitOk = 0,
  kExitFailure = 1,
  kExitUsage = 2,
  kExitNoWorker = 3,
  kExitNotFound = 4,
  kExitBusy = 5,
  kExitInvalidRequest = 6,
  kExitInterrupted = 130,
};

int ExitCodeOf(const absl::Status& status);

// "error: ...", and on a second line what to do, where something can be done.
std::string Explain(const absl::Status& status);

}  // namespace hga

#endif  // HGA_CLIENT_EXIT_CODE_H_
