// Results of a file, gathered by configuration.
#ifndef HGA_TESTS_QUALITY_SUMMARY_H_
#define HGA_TESTS_QUALITY_SUMMARY_H_

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tests/quality/loss.h"
#include "tests/quality/statistics.h"

namespace hga {

// A configuration at a length, of one model. Sorts as tables show it.
struct SeriesName {
  std::string model;
  uint32_t length = 0;
  std::string path;
  uint32_t keys = 0;
  std::string method;
  bool operator<(const SeriesName& o) const {
    return std::tie(model, length, path, keys, method) < std::tie(o.model, o.length, o.path, o.keys, o.method);
  }
};

// Loss of one configuration over documents.
struct LossSeries {
  std::map<std::string, std::vector<LossBucket>> documents;  // by name
  double seconds = 0;
};

// Lines of kind "loss" of a split (empty: all). INVALID_ARGUMENT: a line lacks something.
absl::StatusOr<std::map<SeriesName, LossSeries>> GatherLoss(const std::vector<nlohmann::ordered_json>& lines,
                                                            const std::string& split);

// Per query, over all documents; queries at positions [first, end).
struct LossSummary {
  uint32_t documents = 0;
  double queries = 0;
  double keys = 0, most_keys = 0;
  double dense_nll = 0, nll = 0, kl = 0, same_top = 0;
  Ratio gap;  // nll - dense_nll, with its interval over documents
};
LossSummary Summarize(const LossSeries& series, uint32_t first = 0, uint32_t end = UINT32_MAX);

// Gap of `a` over the gap of `b`, over the documents that both have. NaN where there are none.
Ratio GapRatio(const LossSeries& a, const LossSeries& b);

// Samples of one retrieval task in one configuration.
struct RetrievalCount {
  uint32_t samples = 0, dense_right = 0, routed_right = 0, both_right = 0;
  double agreement() const { return dense_right == 0 ? 0 : static_cast<double>(both_right) / dense_right; }
};
// By task.
absl::StatusOr<std::map<SeriesName, std::map<std::string, RetrievalCount>>> GatherRetrieval(
    const std::vector<nlohmann::ordered_json>& lines);

// Mean over documents of what "mass" lines hold: [layers][query heads].
struct MassSummary {
  uint32_t documents = 0;
  double recall = 0;
  std::vector<std::vector<double>> kept, error;
};
// By length, method and percent of the keys.
using MassName = std::tuple<std::string, uint32_t, std::string, double>;
absl::StatusOr<std::map<MassName, MassSummary>> GatherMass(const std::vector<nlohmann::ordered_json>& lines,
                                                           const std::string& split);
double MeanOf(const std::vector<std::vector<double>>& table);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_SUMMARY_H_
