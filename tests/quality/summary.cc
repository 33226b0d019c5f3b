#include "tests/quality/summary.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "tests/quality/results.h"

namespace hga {

using Json = nlohmann::ordered_json;

namespace {

bool IsOf(const Json& line, const std::string& kind, const std::string& split) {
  return line.value("kind", "") == kind && (split.empty() || line.value("split", "") == split);
}

absl::Status Lacks(const Json& line, const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("result '", line.value("key", ""), "' lacks ", what));
}

absl::StatusOr<SeriesName> NameOf(const Json& line) {
  if (!line.contains("length") || !line["length"].is_number() || !line.contains("keys") || !line["keys"].is_number()) {
    return Lacks(line, "length or keys");
  }
  return SeriesName{line.value("model", ""), line["length"].get<uint32_t>(), line.value("path", ""),
                    line["keys"].get<uint32_t>(), line.value("method", "")};
}

struct Sums {
  double queries = 0, dense_nll = 0, nll = 0, kl = 0, same_top = 0, keys = 0, most_keys = 0;
};

// From and To: LossBucket, Sums, LossSummary.
template <class From, class To>
void AddLoss(const From& x, To* sum) {
  sum->queries += x.queries;
  sum->dense_nll += x.dense_nll;
  sum->nll += x.nll;
  sum->kl += x.kl;
  sum->same_top += x.same_top;
  sum->keys += x.keys;
  sum->most_keys = std::max(sum->most_keys, x.most_keys);
}

Sums SumOf(const std::vector<LossBucket>& buckets, uint32_t first, uint32_t end) {
  Sums s;
  for (const LossBucket& b : buckets) {
    if (b.first >= first && b.first < end) AddLoss(b, &s);
  }
  return s;
}

void AddTo(const std::vector<std::vector<double>>& more, std::vector<std::vector<double>>* sum) {
  if (sum->empty()) *sum = std::vector<std::vector<double>>(more.size());
  for (size_t i = 0; i < std::min(more.size(), sum->size()); ++i) {
    (*sum)[i].resize(std::max((*sum)[i].size(), more[i].size()));
    for (size_t j = 0; j < more[i].size(); ++j) (*sum)[i][j] += more[i][j];
  }
}

void Scale(double factor, std::vector<std::vector<double>>* table) {
  for (auto& row : *table) {
    for (double& x : row) x *= factor;
  }
}

bool IsTable(const Json& json) {
  const auto is_row = [](const Json& row) {
    return row.is_array() && std::all_of(row.begin(), row.end(), [](const Json& x) { return x.is_number(); });
  };
  return json.is_array() && std::all_of(json.begin(), json.end(), is_row);
}

}  // namespace

absl::StatusOr<std::map<SeriesName, LossSeries>> GatherLoss(const std::vector<Json>& lines, const std::string& split) {
  std::map<SeriesName, LossSeries> all;
  for (const Json& line : lines) {
    if (!IsOf(line, "loss", split)) continue;
    HGA_ASSIGN_OR_RETURN(const SeriesName name, NameOf(line));
    if (!line.contains("buckets") || !line["buckets"].is_array()) return Lacks(line, "buckets");
    LossSeries& series = all[name];
    std::vector<LossBucket>& buckets = series.documents[line.value("document", "")];
    buckets.clear();
    for (const Json& json : line["buckets"]) {
      HGA_ASSIGN_OR_RETURN(const LossBucket bucket, BucketFromJson(json));
      buckets.push_back(bucket);
    }
    series.seconds += line.value("seconds", 0.0);
  }
  return all;
}

LossSummary Summarize(const LossSeries& series, uint32_t first, uint32_t end) {
  LossSummary out;
  std::vector<double> gaps, queries;
  for (const auto& [document, buckets] : series.documents) {
    const Sums s = SumOf(buckets, first, end);
    if (s.queries == 0) continue;
    gaps.push_back(s.nll - s.dense_nll);
    queries.push_back(s.queries);
    AddLoss(s, &out);
  }
  out.documents = static_cast<uint32_t>(gaps.size());
  if (gaps.empty()) return out;
  for (double* x : {&out.dense_nll, &out.nll, &out.kl, &out.same_top, &out.keys}) *x /= out.queries;
  out.gap = RatioOfSums(gaps, queries);
  return out;
}

Ratio GapRatio(const LossSeries& a, const LossSeries& b) {
  std::vector<double> ours, theirs;
  for (const auto& [document, buckets] : a.documents) {
    const auto other = b.documents.find(document);
    if (other == b.documents.end()) continue;
    const Sums x = SumOf(buckets, 0, UINT32_MAX), y = SumOf(other->second, 0, UINT32_MAX);
    if (x.queries == 0 || x.queries != y.queries) continue;
    ours.push_back(x.nll - x.dense_nll);
    theirs.push_back(y.nll - y.dense_nll);
  }
  if (!ours.empty()) return RatioOfSums(ours, theirs);
  Ratio none;
  none.value = std::numeric_limits<double>::quiet_NaN();
  return none;
}

absl::StatusOr<std::map<SeriesName, std::map<std::string, RetrievalCount>>> GatherRetrieval(
    const std::vector<Json>& lines) {
  std::map<SeriesName, std::map<std::string, RetrievalCount>> all;
  for (const Json& line : lines) {
    if (!IsOf(line, "retrieval", "")) continue;
    HGA_ASSIGN_OR_RETURN(const SeriesName name, NameOf(line));
    if (!line.contains("dense_right") || !line["dense_right"].is_boolean() || !line.contains("routed_right") ||
        !line["routed_right"].is_boolean()) {
      return Lacks(line, "dense_right or routed_right");
    }
    const bool dense = line["dense_right"], routed = line["routed_right"];
    RetrievalCount& count = all[name][line.value("task", "")];
    ++count.samples;
    count.dense_right += dense;
    count.routed_right += routed;
    count.both_right += dense && routed;
  }
  return all;
}

absl::StatusOr<std::map<MassName, MassSummary>> GatherMass(const std::vector<Json>& lines, const std::string& split) {
  std::map<MassName, MassSummary> all;
  for (const Json& line : lines) {
    if (!IsOf(line, "mass", split)) continue;
    for (const char* field : {"kept", "error"}) {
      if (!line.contains(field) || !IsTable(line[field])) return Lacks(line, field);
    }
    MassSummary& summary = all[MassName{line.value("model", ""), line.value("length", 0u), line.value("method", ""),
                                        line.value("percent", 0.0)}];
    ++summary.documents;
    summary.recall += line.value("recall", 0.0);
    AddTo(line["kept"].get<std::vector<std::vector<double>>>(), &summary.kept);
    AddTo(line["error"].get<std::vector<std::vector<double>>>(), &summary.error);
  }
  for (auto& [name, summary] : all) {
    summary.recall /= summary.documents;
    Scale(1.0 / summary.documents, &summary.kept);
    Scale(1.0 / summary.documents, &summary.error);
  }
  return all;
}

double MeanOf(const std::vector<std::vector<double>>& table) {
  double sum = 0, count = 0;
  for (const auto& row : table) {
    for (const double x : row) {
      sum += x;
      ++count;
    }
  }
  return count == 0 ? 0 : sum / count;
}

}  // namespace hga
