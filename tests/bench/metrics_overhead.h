// What counting costs a decode step.
#ifndef HGA_TESTS_BENCH_METRICS_OVERHEAD_H_
#define HGA_TESTS_BENCH_METRICS_OVERHEAD_H_

#include <string>

#include "absl/status/status.h"
#include "tests/bench/report.h"

namespace hga {

// Two engines in this process that differ in one thing, one counts and one does not, answer in turn; and the updates of
// one step by themselves. model: GGUF file.
absl::Status MeasureMetricsOverhead(const std::string& model, bool quick, Report* report);

}  // namespace hga

#endif  // HGA_TESTS_BENCH_METRICS_OVERHEAD_H_
