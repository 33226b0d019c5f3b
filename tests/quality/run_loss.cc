#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "tests/quality/bench.h"
#include "tests/quality/loss.h"

namespace hga {
namespace {

constexpr char kDefaultConfigs[] =
    "dealt/512/decode,dealt/1024/decode,sketch/512/decode,mean_hga/512/decode,mean@3,0/512/decode,"
    "cuboid/512/decode,window/512/decode,oracle_groups/512/decode,oracle_tokens/512/decode,dealt/1024/prefill";

std::string KeyOf(const std::string& prefix, const TokenDocument& d, const QualityOptions& o, const Configuration& c) {
  return absl::StrCat(prefix, "loss|", d.document.id, "|", d.hash, "|", d.tokens.size(), "|", o.start, "|", c.Name());
}

absl::Status Record(Bench* bench, const std::string& key, const TokenDocument& d, const QualityOptions& o,
                    const Configuration& c, const DocumentLoss& loss) {
  nlohmann::ordered_json line = {{"kind", "loss"},
                                 {"model", bench->model->weights.config.name},
                                 {"document", d.document.id},
                                 {"split", d.document.split},
                                 {"text", d.document.kind},
                                 {"length", d.tokens.size()},
                                 {"start", o.start},
                                 {"method", c.method},
                                 {"keys", c.budget.total},
                                 {"path", PathName(c.path)},
                                 {"seconds", loss.seconds}};
  for (const LossBucket& bucket : loss.buckets) line["buckets"].push_back(ToJson(bucket));
  return bench->results.Append(key, std::move(line));
}

}  // namespace

absl::Status RunLoss(const QualityOptions& options) {
  HGA_ASSIGN_OR_RETURN(auto configurations,
                       ParseConfigurations(options.configs.empty() ? kDefaultConfigs : options.configs, options.shape));
  HGA_ASSIGN_OR_RETURN(Bench bench, OpenBench(options));
  for (Configuration& c : configurations) c.budget.channel_energies = bench.channel_energies;
  const std::string prefix = bench.KeyPrefix(options);
  for (const uint32_t length : options.lengths) {
    HGA_ASSIGN_OR_RETURN(const auto documents, LoadDocuments(options, *bench.model->tokenizer, length));
    struct Work {
      const TokenDocument* document;
      std::vector<Configuration> configurations;
    };
    std::vector<Work> work;
    double total = 0;
    for (const TokenDocument& d : documents) {
      Work* open = nullptr;
      for (const Configuration& c : configurations) {
        if (bench.results.Has(KeyOf(prefix, d, options, c))) continue;
        if (open == nullptr || open->configurations.size() == options.together) {
          work.push_back({&d, {}});
          open = &work.back();
          total += length;
        }
        open->configurations.push_back(c);
        total += length;
      }
    }
    Progress progress(absl::StrCat("loss, ", length, " tokens, ", documents.size(), " documents"), total);
    for (const Work& w : work) {
      LossOptions loss;
      loss.start = options.start;
      HGA_ASSIGN_OR_RETURN(const auto losses,
                           MeasureLoss(bench.backend.get(), bench.geometry, w.document->tokens, w.configurations, loss,
                                       [&](uint32_t tokens) { progress.Add(tokens); }));
      for (size_t i = 0; i < losses.size(); ++i) {
        HGA_RETURN_IF_ERROR(Record(&bench, KeyOf(prefix, *w.document, options, w.configurations[i]), *w.document,
                                   options, w.configurations[i], losses[i]));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace hga
