#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "tests/quality/bench.h"
#include "tests/quality/mass.h"

namespace hga {
namespace {

constexpr char kDefaultMethods[] = "window,mean_hga,mean,cuboid,sketch,oracle_groups,oracle_tokens";

// A list with commas; METHOD@A,B keeps its own.
std::vector<std::string> SplitMethods(const std::string& list) {
  std::vector<std::string> methods;
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(list, ',', absl::SkipEmpty()))) {
    if (absl::ascii_isdigit(part[0]) && !methods.empty()) {
      absl::StrAppend(&methods.back(), ",", part);
    } else {
      methods.push_back(part);
    }
  }
  return methods;
}

}  // namespace

absl::Status RunMass(const QualityOptions& options) {
  HGA_ASSIGN_OR_RETURN(Bench bench, OpenBench(options));
  MassOptions mass;
  mass.shape = options.shape;
  mass.shape.channel_energies = bench.channel_energies;
  const std::vector<std::string> methods =
      SplitMethods(options.configs.empty() ? kDefaultMethods : options.configs);
  for (const uint32_t length : options.lengths) {
    HGA_ASSIGN_OR_RETURN(const auto documents, LoadDocuments(options, *bench.model->tokenizer, length));
    mass.first = length / 2;
    Progress progress(absl::StrCat("mass, ", length, " tokens, ", documents.size(), " documents"),
                      double{1} * length * documents.size());
    for (const TokenDocument& d : documents) {
      const auto key_of = [&](const std::string& method, double percent) {
        return absl::StrCat(bench.KeyPrefix(options), "mass|", d.document.id, "|", d.hash, "|", length, "|", method,
                            "|", percent);
      };
      mass.methods.clear();
      for (const std::string& method : methods) {
        if (!bench.results.Has(key_of(method, mass.percents.back()))) mass.methods.push_back(method);
      }
      if (mass.methods.empty()) {
        progress.Skip(length);
        continue;
      }
      HGA_ASSIGN_OR_RETURN(const auto results, MeasureMass(bench.backend.get(), bench.geometry, d.tokens, mass,
                                                           [&](uint32_t tokens) { progress.Add(tokens); }));
      for (const MassResult& r : results) {
        const std::string key = key_of(r.method, r.percent);
        if (bench.results.Has(key)) continue;
        HGA_RETURN_IF_ERROR(bench.results.Append(key, {{"kind", "mass"},
                                                       {"model", bench.model->weights.config.name},
                                                       {"document", d.document.id},
                                                       {"split", d.document.split},
                                                       {"length", length},
                                                       {"method", r.method},
                                                       {"percent", r.percent},
                                                       {"keys", r.keys},
                                                       {"recall", r.recall},
                                                       {"kept", r.kept},
                                                       {"error", r.error}}));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace hga
