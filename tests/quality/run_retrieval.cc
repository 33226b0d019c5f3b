#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "tests/quality/bench.h"
#include "tests/quality/retrieval.h"
#include "tests/quality/tasks/tasks.h"

namespace hga {
namespace {

constexpr char kDefaultConfigs[] = "dealt/512/prefill,mean_hga/512/prefill,window/512/prefill";

struct Sample {
  TaskSample task;
  Prompt prompt;
};

// One sample of each configuration that lacks it, beside the dense answer.
class RetrievalRun {
 public:
  RetrievalRun(const QualityOptions& options, Bench* bench, std::vector<Configuration> configurations)
      : options_(options), bench_(*bench), configurations_(std::move(configurations)), dense_(configurations_[0]) {
    dense_.method = "dense";
    dense_.path = Path::kPrefill;
  }

  absl::Status Run(const std::string& text, const TaskOptions& task_options) {
    std::vector<std::pair<std::string, const Configuration*>> missing;
    for (const Configuration& c : configurations_) {
      const std::string key =
          absl::StrCat(bench_.KeyPrefix(options_), "retrieval|", HashBytes(text).ToHex().substr(0, 12), "|",
                       TaskName(task_options.kind), "|", task_options.seed, "|", task_options.tokens, "|", c.Name());
      if (!bench_.results.Has(key)) missing.push_back({key, &c});
    }
    if (missing.empty()) return absl::OkStatus();
    HGA_ASSIGN_OR_RETURN(const Sample sample, Make(text, task_options));
    HGA_ASSIGN_OR_RETURN(const std::string dense, AnswerOf(dense_, sample));
    for (const auto& [key, c] : missing) {
      HGA_ASSIGN_OR_RETURN(const std::string routed, AnswerOf(*c, sample));
      HGA_RETURN_IF_ERROR(bench_.results.Append(key, {{"kind", "retrieval"},
                                                      {"model", bench_.model->weights.config.name},
                                                      {"task", TaskName(task_options.kind)},
                                                      {"sample", task_options.seed},
                                                      {"length", task_options.tokens},
                                                      {"method", c->method},
                                                      {"keys", c->budget.total},
                                                      {"path", PathName(c->path)},
                                                      {"dense_right", IsCorrect(sample.task, dense)},
                                                      {"routed_right", IsCorrect(sample.task, routed)},
                                                      {"same_text", dense == routed}}));
    }
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<Sample> Make(const std::string& text, const TaskOptions& task_options) const {
    absl::Status failed;
    const auto count = [&](const std::string& prompt) -> size_t {
      const auto tokens = bench_.model->tokenizer->Encode(prompt, false);
      if (!tokens.ok()) failed = tokens.status();
      return tokens.ok() ? tokens->size() : 0;
    };
    Sample sample;
    HGA_ASSIGN_OR_RETURN(sample.task, MakeTaskSample(text, task_options, count));
    HGA_RETURN_IF_ERROR(failed);
    HGA_ASSIGN_OR_RETURN(sample.prompt,
                         EncodePrompt(*bench_.model->tokenizer, sample.task.prompt, sample.task.question_offset));
    return sample;
  }

  absl::StatusOr<std::string> AnswerOf(const Configuration& c, const Sample& sample) const {
    return Answer(bench_.backend.get(), bench_.geometry, *bench_.model->tokenizer, c, sample.prompt,
                  sample.task.max_new_tokens);
  }

  const QualityOptions& options_;
  Bench& bench_;
  const std::vector<Configuration> configurations_;
  Configuration dense_;
};

}  // namespace

absl::Status RunRetrieval(const QualityOptions& options) {
  HGA_ASSIGN_OR_RETURN(auto configurations,
                       ParseConfigurations(options.configs.empty() ? kDefaultConfigs : options.configs, options.shape));
  if (configurations.empty()) return absl::InvalidArgumentError("--configs names none");
  HGA_ASSIGN_OR_RETURN(Bench bench, OpenBench(options));
  for (Configuration& c : configurations) c.budget.channel_energies = bench.channel_energies;
  RetrievalRun run(options, &bench, std::move(configurations));
  for (const uint32_t length : options.lengths) {
    HGA_ASSIGN_OR_RETURN(auto documents, LoadDocuments(options, *bench.model->tokenizer, length));
    documents.erase(std::remove_if(documents.begin(), documents.end(),
                                   [](const TokenDocument& d) { return d.document.kind == "code"; }),
                    documents.end());
    if (documents.empty()) return absl::NotFoundError("all documents are code; retrieval needs sentences");
    Progress progress(absl::StrCat("retrieval, ", length, " tokens"),
                      double{1} * options.samples * AllTaskKinds().size());
    for (uint32_t i = 0; i < options.samples; ++i) {
      HGA_ASSIGN_OR_RETURN(const std::string text, ReadText(documents[i % documents.size()].document.path));
      for (const TaskKind kind : AllTaskKinds()) {
        TaskOptions task;
        task.kind = kind;
        task.tokens = length;
        task.seed = uint64_t{options.seed} * 1000003 + i;
        const absl::Status status = run.Run(text, task);
        if (!status.ok()) {
          return absl::Status(status.code(), absl::StrCat(documents[i % documents.size()].document.id, ", ",
                                                          TaskName(kind), ": ", status.message()));
        }
        progress.Add(1);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace hga
