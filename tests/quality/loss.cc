#include "tests/quality/loss.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "common/base/status.h"
#include "tests/quality/exact_mass.h"
#include "tests/quality/sequence_run.h"

namespace hga {
namespace {

struct DenseRow {
  double log_sum = 0;
  uint32_t top = 0;
};

uint32_t TopToken(const float* logits, size_t vocab) {
  return static_cast<uint32_t>(std::max_element(logits, logits + vocab) - logits);
}

// One document on its way through all configurations.
class LossRun {
 public:
  LossRun(Backend* backend, const KvGeometry& g, absl::Span<const uint32_t> tokens, const LossOptions& options)
      : backend_(backend), g_(g), tokens_(tokens), options_(options), dense_(backend, g, NewDenseSelector(g)) {}

  absl::Status Add(const Configuration& c) {
    HGA_ASSIGN_OR_RETURN(auto selector, CreateSelector(c, g_));
    runs_.push_back({std::make_unique<SequenceRun>(backend_, g_, std::move(selector)), c.path, {}});
    return absl::OkStatus();
  }

  // The next step of the dense run and of each configuration.
  absl::Status Step(const std::function<void(uint32_t)>& progress) {
    const uint32_t first = dense_.length();
    const auto rows = static_cast<uint32_t>(std::min<size_t>(options_.step_tokens, tokens_.size() - 1 - first));
    const uint32_t wanted = options_.start > first ? std::min(options_.start - first, rows) : 0;
    const auto step = tokens_.subspan(first, rows);
    HGA_RETURN_IF_ERROR(dense_.Step(Path::kPrefill, step, wanted, &dense_logits_));
    progress(rows);
    Digest(rows - wanted);
    for (Run& run : runs_) {
      const auto begin = std::chrono::steady_clock::now();
      HGA_RETURN_IF_ERROR(run.sequence->Step(run.path, step, wanted, &logits_));
      if (wanted < rows) Compare(first + wanted, rows - wanted, wanted, &run);
      run.loss.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      progress(rows);
    }
    return absl::OkStatus();
  }

  bool done() const { return dense_.length() + 1 >= tokens_.size(); }

  std::vector<DocumentLoss> Take() {
    std::vector<DocumentLoss> losses;
    for (Run& run : runs_) losses.push_back(std::move(run.loss));
    return losses;
  }

 private:
  struct Run {
    std::unique_ptr<SequenceRun> sequence;
    Path path;
    DocumentLoss loss;
  };

  void Digest(uint32_t rows) {
    if (rows == 0) return;
    vocab_ = dense_logits_.size() / rows;
    dense_rows_.resize(rows);
    dense_p_ = dense_logits_;
#pragma omp parallel for
    for (uint32_t r = 0; r < rows; ++r) {
      dense_rows_[r].top = TopToken(&dense_p_[r * vocab_], vocab_);
      dense_rows_[r].log_sum = SoftmaxInPlace(&dense_p_[r * vocab_], vocab_);
    }
  }

  void Compare(uint32_t first, uint32_t rows, uint32_t first_row, Run* run) {
    struct RowLoss {
      double nll, kl;
      bool same_top;
    };
    std::vector<RowLoss> losses(rows);
#pragma omp parallel for
    for (uint32_t r = 0; r < rows; ++r) {
      const float* dense = &dense_logits_[r * vocab_];
      const float* routed = &logits_[r * vocab_];
      const double log_sum = LogSumExp(routed, vocab_);
      losses[r].nll = log_sum - routed[tokens_[first + r + 1]];
      losses[r].kl =
          WeightedDifference(&dense_p_[r * vocab_], dense, routed, vocab_) - dense_rows_[r].log_sum + log_sum;
      losses[r].same_top = TopToken(routed, vocab_) == dense_rows_[r].top;
    }
    for (uint32_t r = 0; r < rows; ++r) {
      auto& buckets = run->loss.buckets;
      const uint32_t position = first + r, bucket = position / kBucketTokens * kBucketTokens;
      if (buckets.empty() || buckets.back().first != bucket) {
        buckets.emplace_back();
        buckets.back().first = bucket;
      }
      LossBucket& b = buckets.back();
      const double keys = run->sequence->keys()[first_row + r];
      ++b.queries;
      b.dense_nll += dense_rows_[r].log_sum - dense_logits_[r * vocab_ + tokens_[position + 1]];
      b.nll += losses[r].nll;
      b.kl += losses[r].kl;
      b.same_top += losses[r].same_top;
      b.keys += keys;
      b.most_keys = std::max(b.most_keys, keys);
    }
  }

  Backend* const backend_;
  const KvGeometry g_;
  const absl::Span<const uint32_t> tokens_;
  const LossOptions options_;
  SequenceRun dense_;
  std::vector<Run> runs_;
  size_t vocab_ = 0;
  std::vector<DenseRow> dense_rows_;
  std::vector<float> dense_logits_, dense_p_, logits_;
};

}  // namespace

absl::StatusOr<std::vector<DocumentLoss>> MeasureLoss(Backend* backend, const KvGeometry& g,
                                                      absl::Span<const uint32_t> tokens,
                                                      const std::vector<Configuration>& configurations,
                                                      const LossOptions& options,
                                                      const std::function<void(uint32_t tokens)>& progress) {
  LossRun run(backend, g, tokens, options);
  for (const Configuration& c : configurations) HGA_RETURN_IF_ERROR(run.Add(c));
  while (!run.done()) HGA_RETURN_IF_ERROR(run.Step(progress));
  return run.Take();
}

}  // namespace hga
