// The results file: one JSON object per line, appended as it is measured, so that a run goes on where it was cut off.
#ifndef HGA_TESTS_QUALITY_RESULTS_H_
#define HGA_TESTS_QUALITY_RESULTS_H_

#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tests/quality/loss.h"

namespace hga {

// Part of every key: raised when the same configuration would give other numbers.
inline constexpr int kMeasureVersion = 5;

class Results {
 public:
  // Reads what is there; the file need not exist. A last line that was cut off is dropped, any other bad line is
  // INVALID_ARGUMENT.
  static absl::StatusOr<Results> Open(const std::string& path);

  bool Has(const std::string& key) const { return keys_.count(key) > 0; }
  // Writes and flushes. `line` gets the key.
  absl::Status Append(const std::string& key, nlohmann::ordered_json line);
  const std::vector<nlohmann::ordered_json>& lines() const { return lines_; }

 private:
  std::string path_;
  std::set<std::string> keys_;
  std::vector<nlohmann::ordered_json> lines_;
  std::ofstream out_;
};

nlohmann::ordered_json ToJson(const LossBucket& bucket);
// INVALID_ARGUMENT: a field is missing.
absl::StatusOr<LossBucket> BucketFromJson(const nlohmann::ordered_json& json);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_RESULTS_H_
