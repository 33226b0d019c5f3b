// One Generate call, shown as it comes.
#ifndef HGA_CLIENT_ANSWER_H_
#define HGA_CLIENT_ANSWER_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/console.h"
#include "client/interrupt.h"
#include "client/options.h"

namespace hga {

// What a command works with; owned by RunClient.
struct Call {
  const Options& options;
  WorkerStub* stub;
  Console* console;
  Interrupt* interrupt;
};

// Writes tokens to `out` and progress to `err`. CANCELLED after an interrupt.
absl::StatusOr<gpu_worker::v1::Finished> StreamAnswer(const Call& call,
                                                      const gpu_worker::v1::GenerateRequest& request);

// The statistics, where the options want them: JSON to `out` or a file. INTERNAL if the file cannot be
// written.
absl::Status WriteJson(const Call& call, const std::string& line);

}  // namespace hga

#endif  // HGA_CLIENT_ANSWER_H_
