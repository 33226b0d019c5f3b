// A child process of a test, with its output in a file.
#ifndef HGA_TESTS_SUPPORT_PROCESS_H_
#define HGA_TESTS_SUPPORT_PROCESS_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hga {

// Killed with SIGKILL when destroyed, so that a failing test leaves nothing behind.
class Process {
 public:
  Process() = default;
  ~Process();
  Process(Process&& other) noexcept { *this = static_cast<Process&&>(other); }
  Process& operator=(Process&& other) noexcept;

  // Runs argv with stdout and stderr appended to `log_path`.
  static absl::StatusOr<Process> Start(const std::vector<std::string>& argv, const std::string& log_path);

  bool running();
  void Signal(int signal);
  // Until it has ended. Exit status as a shell has it (128 + signal number for a killed process); DEADLINE_EXCEEDED: it
  // did not end in a minute of this process's running.
  absl::StatusOr<int> Wait();
  pid_t pid() const { return pid_; }

 private:
  bool Reap(int options);

  pid_t pid_ = -1;
  int exit_code_ = -1;
};

std::string ReadFileOrEmpty(const std::string& path);

}  // namespace hga

#endif  // HGA_TESTS_SUPPORT_PROCESS_H_
