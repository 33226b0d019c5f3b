// What every benchmark's main has: the flags that tests/bench/run.sh gives, and its
// end.
#ifndef HGA_TESTS_BENCH_BENCH_MAIN_H_
#define HGA_TESTS_BENCH_BENCH_MAIN_H_

#include "absl/status/status.h"
#include "tests/bench/report.h"

namespace hga {

// As absl::ParseCommandLine; --help shows the flags above too.
void ParseFlags(int argc, char** argv);
// Writes the numbers to the file that --json names, with --commit and --command; nothing without it.
absl::Status WriteNumbers(const Report& report);
// Prints an error under the program's name; main's result.
int ExitCode(const absl::Status& status);

}  // namespace hga

#endif  // HGA_TESTS_BENCH_BENCH_MAIN_H_
