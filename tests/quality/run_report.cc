#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/base/machine_limits.h"
#include "common/base/status.h"
#include "tests/bench/report.h"
#include "tests/quality/bench.h"
#include "tests/quality/summary.h"
#include "tests/quality/svg_plot.h"

namespace hga {
namespace {

using Json = nlohmann::ordered_json;
using LossMap = std::map<SeriesName, LossSeries>;
using RetrievalMap = std::map<SeriesName, std::map<std::string, RetrievalCount>>;
using MassMap = std::map<MassName, MassSummary>;

constexpr uint32_t kDoublings[] = {512, 1024, 2048, 4096, 8192, 16384, 32768, 65536};

void PrintLoss(const LossMap& all) {
  if (all.empty()) return;
  std::printf("\nLoss (nats; gap = routed - dense, 95 %% interval over documents)\n");
  std::printf("%-22s %6s %-7s %6s %4s %8s %7s %9s %9s %9s  %-19s %9s %6s\n", "method", "length", "path", "keys", "docs",
              "attended", "most", "dense ppl", "ppl", "gap", "interval", "KL", "top-1");
  for (const auto& [name, series] : all) {
    const LossSummary s = Summarize(series);
    std::printf("%-22s %6u %-7s %6u %4u %8.1f %7.0f %9.3f %9.3f %9.5f  [%8.5f,%8.5f] %9.5f %6.4f\n",
                name.method.c_str(), name.length, name.path.c_str(), name.keys, s.documents, s.keys, s.most_keys,
                std::exp(s.dense_nll), std::exp(s.nll), s.gap.value, s.gap.interval.low, s.gap.interval.high, s.kl,
                s.same_top);
  }
  std::printf("\nGap by the query's position\n%-22s %6s %-7s %6s", "method", "length", "path", "keys");
  for (const uint32_t first : kDoublings) std::printf(" %8s", absl::StrCat(first, "+").c_str());
  std::printf("\n");
  for (const auto& [name, series] : all) {
    std::printf("%-22s %6u %-7s %6u", name.method.c_str(), name.length, name.path.c_str(), name.keys);
    for (const uint32_t first : kDoublings) {
      const LossSummary s = Summarize(series, first, first * 2);
      if (s.queries > 0) std::printf(" %8.5f", s.gap.value);
    }
    std::printf("\n");
  }
}

void PrintRetrieval(const RetrievalMap& all) {
  if (all.empty()) return;
  std::printf("\nRetrieval (agreement: right when routed, of the samples that dense gets right)\n");
  std::printf("%-22s %6s %-7s %6s %-18s %7s %6s %6s %9s\n", "method", "length", "path", "keys", "task",
              "samples", "dense", "routed", "agreement");
  for (const auto& [name, tasks] : all) {
    for (const auto& [task, c] : tasks) {
      std::printf("%-22s %6u %-7s %6u %-18s %7u %6.3f %6.3f", name.method.c_str(), name.length, name.path.c_str(),
                  name.keys, task.c_str(), c.samples, double{1} * c.dense_right / c.samples,
                  double{1} * c.routed_right / c.samples);
      if (c.dense_right > 0) std::printf(" %9.3f", c.agreement());
      std::printf("\n");
    }
  }
}

void PrintMass(const MassMap& all) {
  if (all.empty()) return;
  std::printf("\nAttention with the dense run's K/V, mean over layers and query heads\n");
  std::printf("%-22s %6s %8s %5s %10s %13s %15s %7s\n", "method", "length", "% keys", "docs", "mass kept",
              "output error", "worst head kept", "recall");
  for (const auto& [name, s] : all) {
    double worst = 1;
    for (const auto& layer : s.kept) {
      for (const double kept : layer) worst = std::min(worst, kept);
    }
    std::printf("%-22s %6u %8.1f %5u %10.4f %13.4f %15.4f %7.4f\n", std::get<2>(name).c_str(), std::get<1>(name),
                std::get<3>(name), s.documents, MeanOf(s.kept), MeanOf(s.error), worst, s.recall);
  }
}

// The numbers by which the default method is judged, of the first model in the file.
class Numbers {
 public:
  Numbers(const LossMap& loss, const RetrievalMap& retrieval, const std::string& method)
      : loss_(loss), retrieval_(retrieval), method_(method),
        model_(!loss.empty() ? loss.begin()->first.model : !retrieval.empty() ? retrieval.begin()->first.model : "") {}

  Json All() {
    std::set<uint32_t> lengths = {8192};  // these are always there: what is missing is null
    for (const auto& [name, series] : loss_) lengths.insert(name.length);
    for (const uint32_t length : lengths) AddLength(length);
    AddAgreement();
    return json_;
  }

 private:
  void AddLength(uint32_t length) {
    const std::string at = length % 1024 == 0 ? absl::StrCat("_", length / 1024, "k") : absl::StrCat("_", length);
    const LossSeries* ours = Find(length, method_, 512, "decode");
    const LossSeries* hga = Find(length, "mean_hga", 512, "decode");
    const bool both = ours != nullptr && hga != nullptr;
    AddGap("gap_nats" + at + "_512", ours);
    AddGap("gap_nats" + at + "_1024", Find(length, method_, 1024, "decode"));
    Add("gap_ratio_vs_hga" + at + "_512", both ? GapRatio(*ours, *hga) : Ratio(), both);
    AddGap("gap_nats" + at + "_512_hga", hga);
    AddGap("gap_nats" + at + "_512_hga_chat", Find(length, "mean@3,0", 512, "decode"));
    AddGap("gap_nats" + at + "_1024_prefill", Find(length, method_, 1024, "prefill"));
    AddGap("gap_nats" + at + "_512_oracle", Find(length, "oracle_groups", 512, "decode"));
    AddGap("gap_nats" + at + "_512_oracle_tokens", Find(length, "oracle_tokens", 512, "decode"));
    AddGap("gap_nats" + at + "_512_window", Find(length, "window", 512, "decode"));
    json_["documents" + at] = ours == nullptr ? 0 : ours->documents.size();
  }

  const LossSeries* Find(uint32_t length, const std::string& method, uint32_t keys, const std::string& path) const {
    const auto found = loss_.find({model_, length, path, keys, method});
    return found == loss_.end() ? nullptr : &found->second;
  }

  void Add(const std::string& key, const Ratio& ratio, bool known) {
    known = known && std::isfinite(ratio.value);
    if (!known && key.find("_8k") == std::string::npos) return;
    json_[key] = known ? Json(ratio.value) : Json(nullptr);
    const bool sure = known && std::isfinite(ratio.interval.low);  // not so for one document
    json_[key + "_low"] = sure ? Json(ratio.interval.low) : Json(nullptr);
    json_[key + "_high"] = sure ? Json(ratio.interval.high) : Json(nullptr);
  }

  void AddGap(const std::string& key, const LossSeries* series) {
    Add(key, series == nullptr ? Ratio() : Summarize(*series).gap, series != nullptr);
  }

  // Of all lengths and tasks, the whole prompt routed.
  void AddAgreement() {
    RetrievalCount sum;
    for (const auto& [name, tasks] : retrieval_) {
      if (name.model != model_ || name.method != method_ || name.keys != 512 || name.path != "prefill") continue;
      for (const auto& [task, c] : tasks) {
        sum.samples += c.samples;
        sum.dense_right += c.dense_right;
        sum.both_right += c.both_right;
      }
    }
    json_["retrieval_agreement_512"] = sum.dense_right == 0 ? Json(nullptr) : Json(sum.agreement());
    json_["retrieval_dense_right"] = sum.dense_right;
    json_["retrieval_samples"] = sum.samples;
  }

  const LossMap& loss_;
  const RetrievalMap& retrieval_;
  const std::string method_, model_;
  Json json_;
};

// Series of a plot by name.
PlotSeries* SeriesOf(Plot* plot, const std::string& name) {
  for (PlotSeries& series : plot->series) {
    if (series.name == name) return &series;
  }
  plot->series.push_back({name, {}});
  return &plot->series.back();
}

PlotPoint GapPoint(double x, const LossSummary& s) {
  if (!std::isfinite(s.gap.interval.low)) return {x, s.gap.value, 0, 0};
  return {x, s.gap.value, s.gap.interval.low, s.gap.interval.high};
}

std::map<std::string, Plot> Plots(const LossMap& loss, const MassMap& mass) {
  std::map<std::string, Plot> plots;
  for (const auto& [name, series] : loss) {
    if (name.method == "dense") continue;
    const std::string where = absl::StrCat(name.path, ", ", name.length, " tokens");
    Plot& by_keys = plots[absl::StrCat("gap_", name.path, "_", name.length)];
    by_keys.title = "Loss against dense, " + where;
    by_keys.x_label = "keys per query";
    by_keys.y_label = "gap (nats)";
    const LossSummary all = Summarize(series);
    SeriesOf(&by_keys, name.method)->points.push_back(GapPoint(all.keys, all));
    Plot& by_position = plots[absl::StrCat("position_", name.path, "_", name.length, "_", name.keys)];
    by_position.title = absl::StrCat("Loss against dense, ", where, ", ", name.keys, " keys");
    by_position.x_label = "position";
    by_position.y_label = "gap (nats)";
    for (uint32_t first = 0; first < name.length; first += 2 * kBucketTokens) {
      const LossSummary s = Summarize(series, first, first + 2 * kBucketTokens);
      if (s.queries > 0) SeriesOf(&by_position, name.method)->points.push_back(GapPoint(first + kBucketTokens, s));
    }
  }
  for (const auto& [name, s] : mass) {
    Plot& plot = plots[absl::StrCat("error_", std::get<1>(name))];
    plot.title = absl::StrCat("Error of attention's output, ", std::get<1>(name), " tokens");
    plot.x_label = "% of the keys";
    plot.y_label = "relative error";
    plot.y_floor = 1e-2;
    SeriesOf(&plot, std::get<2>(name))->points.push_back({std::get<3>(name), MeanOf(s.error), 0, 0});
  }
  return plots;
}

absl::Status Write(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file.fail() ? absl::UnavailableError(absl::StrCat("cannot write ", path)) : absl::OkStatus();
}

}  // namespace

absl::Status RunReport(const QualityOptions& options) {
  std::error_code error;
  if (!std::filesystem::exists(options.out, error)) {
    return absl::NotFoundError(absl::StrCat("no results in ", options.out));
  }
  HGA_ASSIGN_OR_RETURN(const Results results, Results::Open(options.out));
  HGA_ASSIGN_OR_RETURN(const LossMap loss, GatherLoss(results.lines(), options.split));
  HGA_ASSIGN_OR_RETURN(const RetrievalMap retrieval, GatherRetrieval(results.lines()));
  HGA_ASSIGN_OR_RETURN(const MassMap mass, GatherMass(results.lines(), options.split));
  PrintLoss(loss);
  PrintMass(mass);
  PrintRetrieval(retrieval);
  Json json = Numbers(loss, retrieval, options.method).All();
  std::printf("\n");
  for (const auto& [key, value] : json.items()) std::printf("%-36s %s\n", key.c_str(), value.dump().c_str());
  if (!options.json.empty()) {
    json["machine"] = MachineName();
    json["commit"] = options.commit;
    json["command"] = options.command;
    HGA_RETURN_IF_ERROR(Write(options.json, json.dump(2) + "\n"));
  }
  if (options.svg_dir.empty()) return absl::OkStatus();
  std::filesystem::create_directories(options.svg_dir, error);
  for (const auto& [name, plot] : Plots(loss, mass)) {
    HGA_RETURN_IF_ERROR(Write(absl::StrCat(options.svg_dir, "/", name, ".svg"), SvgOf(plot)));
  }
  return absl::OkStatus();
}

}  // namespace hga
