#include "gpu_worker/engine/sampler.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/top_logits.h"

namespace hga {
namespace {

absl::Status CheckRange(const char* field, float value, float low, float high) {
  if (std::isfinite(value) && value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("sampling.", field, " is ", value, ": must be ", low, " to ", high));
}

// The lowest id wins a tie; NaN never wins.
uint32_t ArgMax(absl::Span<const float> logits) {
  uint32_t best = 0;
  float most = -INFINITY;
  for (uint32_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > most) {
      most = logits[i];
      best = i;
    }
  }
  return best;
}

// splitmix64: 53 random bits in [0, 1).
double Uniform(uint64_t* state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1.0p-53;
}

absl::Status NotFinite(size_t token, float logit) {
  return absl::InternalError(absl::StrCat("the model's logit of token ", token, " is ", logit,
                                          ": its weights or the K/V it attended are damaged"));
}

}  // namespace

absl::Status CheckLogits(absl::Span<const float> logits) {
  const size_t odd = FirstNotFinite(logits);
  return odd == logits.size() ? absl::OkStatus() : NotFinite(odd, logits[odd]);
}

absl::Status CheckTopLogits(absl::Span<const TokenLogit> top) {
  if (top.empty()) return absl::InternalError("a row without logits");
  return std::isfinite(top[0].logit) ? absl::OkStatus() : NotFinite(top[0].id, top[0].logit);
}

absl::Status SamplingOptions::Validate() const {
  for (const absl::Status& status :
       {CheckRange("temperature", temperature, 0, 100), CheckRange("top_p", top_p, 0, 1),
        CheckRange("min_p", min_p, 0, 1), CheckRange("repetition_penalty", repetition_penalty, 0.01f, 100)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

uint32_t Sampler::Sample(absl::Span<float> logits, absl::Span<const uint32_t> history) {
  if (penalizes()) PenalizeLogits(options_.repetition_penalty, SeenIn(history, logits.size()), logits);
  if (options_.temperature <= 0) return ArgMax(logits);
  candidates_.clear();
  for (uint32_t i = 0; i < logits.size(); ++i) {
    if (std::isfinite(logits[i])) candidates_.push_back({logits[i], i, 0});
  }
  if (candidates_.empty()) return ArgMax(logits);
  SortCandidates();
  const uint64_t total = WeighCandidates();
  return *Draw(total, true);
}

uint32_t Sampler::top_needed() const {
  if (options_.temperature <= 0) return 1;
  if (options_.top_k == 0) return kMaxTopLogits;
  return options_.top_k <= kMaxTopLogits ? options_.top_k : 0;
}

TopRow Sampler::top_row(absl::Span<const uint32_t> history, uint32_t vocab_size) {
  TopRow row;
  row.penalty = options_.repetition_penalty;
  if (penalizes()) row.seen = SeenIn(history, vocab_size);
  if (options_.top_k == 0) row.temperature = std::max(options_.temperature, 0.0f);
  return row;
}

std::optional<uint32_t> Sampler::SampleTop(absl::Span<const TokenLogit> top, uint64_t mass) {
  if (options_.temperature <= 0) return top[0].id;
  candidates_.clear();
  for (const TokenLogit& t : top) candidates_.push_back({t.logit, t.id, 0});
  const uint64_t total = WeighCandidates();
  return options_.top_k > 0 ? Draw(total, true) : Draw(mass, false);
}

// Most likely first.
void Sampler::SortCandidates() {
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
}

// After top-k. Returns the sum.
uint64_t Sampler::WeighCandidates() {
  if (options_.top_k > 0 && candidates_.size() > options_.top_k) candidates_.resize(options_.top_k);
  uint64_t total = 0;
  for (Candidate& c : candidates_) {
    c.mass = LogitMass(c.logit, candidates_[0].logit, options_.temperature);
    total += c.mass;
  }
  return total;
}

// One of those that min-p and top-p leave. total: of all tokens, of which `all` or only the first are candidates.
std::optional<uint32_t> Sampler::Draw(uint64_t total, bool all) {
  const bool by_p = options_.top_p > 0 && options_.top_p < 1, cuts = by_p || options_.min_p > 0;
  const double enough = by_p ? options_.top_p * static_cast<double>(total) : 0;
  const double least = options_.min_p * kLogitMass;
  size_t keep = 0;
  uint64_t kept = 0;
  const auto ends = [&] {  // behind the first, which is always kept
    return (by_p && static_cast<double>(kept) >= enough) ||
           (keep < candidates_.size() && static_cast<double>(candidates_[keep].mass) < least);
  };
  while (keep < candidates_.size() && (keep == 0 || !ends())) kept += candidates_[keep++].mass;
  if (!all && cuts && !ends()) return std::nullopt;
  if (!cuts) kept = total;
  uint64_t state = state_;
  double left = Uniform(&state) * static_cast<double>(kept);
  for (size_t i = 0; i < keep; ++i) {
    left -= static_cast<double>(candidates_[i].mass);
    if (left >= 0 && (i + 1 < keep || !(all || cuts))) continue;
    state_ = state;
    return candidates_[i].id;
  }
  return std::nullopt;
}

const std::vector<uint64_t>& Sampler::SeenIn(absl::Span<const uint32_t> history, size_t vocab_size) {
  seen_.assign((vocab_size + 63) / 64, 0);
  for (const uint32_t id : history) {
    if (id < vocab_size) seen_[id / 64] |= uint64_t{1} << (id % 64);
  }
  return seen_;
}

}  // namespace hga
