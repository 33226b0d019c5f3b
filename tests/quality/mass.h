// What a choice of keys keeps of the attention: its mass and the error of its output, per layer and query head. K/V and
// queries are those of the dense run, so that one layer's error is not the next layer's input.
#ifndef HGA_TESTS_QUALITY_MASS_H_
#define HGA_TESTS_QUALITY_MASS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tests/quality/configuration.h"

namespace hga {

struct MassOptions {
  // Choosers, and "window": the newest keys. Followed by +residual: what is not chosen of a chunk is approximated by
  // as many keys with its mean key and mean value.
  std::vector<std::string> methods;
  std::vector<double> percents = {1, 2, 3, 5, 10};
  // Sinks and window count. The window is given up where it would take more than half of the keys.
  KeyBudget shape;
  uint32_t first = 4096;   // sampled queries: one of every `stride` positions from here on
  uint32_t stride = 256;   // a multiple of the chunk length
  uint32_t step_tokens = 256;
};

// Means over the sampled queries.
struct MassResult {
  std::string method;
  double percent = 0;
  double keys = 0;  // attended
  double recall = 0;  // of the keys that the first method attends, the share that this one attends too
  std::vector<std::vector<double>> kept, error;  // [layers][query_heads]; error: |o' - o| / |o|
};

// One result for each method and percent.
absl::StatusOr<std::vector<MassResult>> MeasureMass(Backend* backend, const KvGeometry& g,
                                                    absl::Span<const uint32_t> tokens, const MassOptions& options,
                                                    const std::function<void(uint32_t tokens)>& progress);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_MASS_H_
