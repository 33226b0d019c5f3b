// The `hga` command: asks a running gpu_worker.
#include <unistd.h>

#include <iostream>

#include "absl/synchronization/mutex.h"
#include "client/console.h"
#include "client/interrupt.h"
#include "client/run.h"

int main(int argc, char** argv) {
  static hga::Interrupt interrupt;
  hga::CancelOnSigint(&interrupt);  // before the first thread
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  hga::Console console{std::cin, std::cout, std::cerr, isatty(STDIN_FILENO) == 1, isatty(STDERR_FILENO) == 1};
  return hga::RunClient(argc, argv, &console, &interrupt);
}
