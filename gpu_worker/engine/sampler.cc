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
  if (options_.repetition_penalty != 1) Penalize(logits, history);
  if (options_.temperature <= 0) return ArgMax(logits);
  candidates_.clear();
  for (uint32_t i = 0; i < logits.size(); ++i) {
    if (std::isfinite(logits[i])) candidates_.push_back({logits[i], i});
  }
  return candidates_.empty() ? ArgMax(logits) : Draw();
}

uint32_t Sampler::top_needed() const {
  if (options_.repetition_penalty != 1) return 0;
  if (options_.temperature <= 0) return 1;
  return options_.top_k <= kMaxTopLogits ? options_.top_k : 0;
}

uint32_t Sampler::SampleTop(absl::Span<const TokenLogit> top) {
  if (options_.temperature <= 0) return top[0].id;
  candidates_.clear();
  for (const TokenLogit& t : top) candidates_.push_back({t.logit, t.id});
  return Draw();
}

// One of the candidates.
uint32_t Sampler::Draw() {
  Truncate();
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  double left = NextUniform() * total;
  for (const Candidate& c : candidates_) {
    left -= c.weight;
    if (left < 0) return c.id;
  }
  return candidates_.back().id;
}

void Sampler::Penalize(absl::Span<float> logits, absl::Span<const uint32_t> history) {
  seen_.assign(logits.size(), false);
  for (uint32_t id : history) {
    if (id >= logits.size() || seen_[id]) continue;
    seen_[id] = true;
    float& logit = logits[id];
    logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
  }
}

// Most likely first; then top-k, and on probabilities after the temperature min-p and top-p.
void Sampler::Truncate() {
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  });
  if (options_.top_k > 0 && candidates_.size() > options_.top_k) candidates_.resize(options_.top_k);
  const float most = candidates_[0].weight;
  double total = 0;
  for (Candidate& c : candidates_) {
    c.weight = std::exp((c.weight - most) / options_.temperature);
    total += c.weight;
  }
  size_t keep = candidates_.size();
  if (options_.min_p > 0) {
    keep = 1;
    while (keep < candidates_.size() && candidates_[keep].weight >= options_.min_p) ++keep;
  }
  if (options_.top_p > 0 && options_.top_p < 1) {
    double mass = 0;
    size_t n = 0;
    while (n < keep && mass < options_.top_p * total) mass += candidates_[n++].weight;
    keep = std::max<size_t>(1, n);
  }
  candidates_.resize(keep);
}

// splitmix64: 53 random bits in [0, 1).
double Sampler::NextUniform() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1.0p-53;
}

}  // namespace hga
