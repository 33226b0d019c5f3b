// What a benchmark prints: a table for people, one flat JSON object of numbers for machines.
#ifndef HGA_TESTS_BENCH_REPORT_H_
#define HGA_TESTS_BENCH_REPORT_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace hga {

class Report {
 public:
  // Prints the row at once, so that a long run shows progress. `key` empty: not in the JSON.
  void Add(const std::string& key, const std::string& what, double value, const std::string& unit);
  // Numbers and, as strings, machine, commit and command. The latter two come from tests/bench/run.sh.
  absl::Status WriteJson(const std::string& path, const std::string& commit, const std::string& command) const;

 private:
  std::vector<std::pair<std::string, double>> numbers_;
};

// Seconds of CPU that this process has used: what does not depend on who else runs.
double CpuSeconds();

// Nearest-rank quantile, q in [0, 1]; sorts `samples`.
double Quantile(std::vector<double>* samples, double q);

}  // namespace hga

#endif  // HGA_TESTS_BENCH_REPORT_H_
