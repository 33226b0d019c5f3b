// What is measured: a method, a budget of keys, a path.
#ifndef HGA_TESTS_QUALITY_CONFIGURATION_H_
#define HGA_TESTS_QUALITY_CONFIGURATION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tests/quality/selector.h"

namespace hga {

// Methods: dense, window, oracle_groups, oracle_tokens, mean_hga, and every summary method of common/kv/summary.h.
// A summary method may be followed by @overprovision,scan_chunks (router/index/select.h), by +max or +sum: how query
// heads are pooled, and by how the budget is shared out (gpu_worker/engine/engine_options.h): +fixed, +shared, +capX,
// +stepX, +floorX, +leastX, +top_pX. Summary methods share as the product does; without +shared mean_hga, methods with
// @ and the oracles do not, the oracles in the prefill path never.
struct Configuration {
  std::string method;  // as it was written
  Path path = Path::kDecode;
  KeyBudget budget;

  // METHOD/KEYS/PATH, e.g. dealt/512/decode.
  std::string Name() const;
};

// The paper's two stages in its repository's settings: 16 chunks by their means, then all of their 64 groups.
inline constexpr SelectOptions kHgaSelect = {1, 0};

// METHOD/KEYS/PATH; INVALID_ARGUMENT says what is wrong.
absl::StatusOr<Configuration> ParseConfiguration(absl::string_view name, const KeyBudget& shape);
// A list with commas; one with @ in it keeps its comma.
absl::StatusOr<std::vector<Configuration>> ParseConfigurations(absl::string_view names, const KeyBudget& shape);

// A chooser by its method; NOT_FOUND for methods that choose nothing.
absl::StatusOr<std::unique_ptr<Chooser>> CreateChooser(const std::string& method, const KvGeometry& g,
                                                       const std::string& channel_energies);
absl::StatusOr<std::unique_ptr<Selector>> CreateSelector(const Configuration& configuration, const KvGeometry& g);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_CONFIGURATION_H_
