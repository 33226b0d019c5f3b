#include "gpu_worker/backend/top_logits.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "gpu_worker/backend/backend.h"

namespace hga {
namespace {

bool IsBetter(const TokenLogit& a, const TokenLogit& b) {
  const bool a_finite = std::isfinite(a.logit), b_finite = std::isfinite(b.logit);
  if (a_finite != b_finite) return b_finite;
  return a_finite && a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

}  // namespace

size_t FirstNotFinite(absl::Span<const float> logits) {
  // On bits and without a branch, so that the compiler makes it a few microseconds of vector code.
  constexpr uint32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000;
  uint32_t largest = 0;
  for (const float logit : logits) {
    uint32_t bits;
    std::memcpy(&bits, &logit, sizeof(bits));
    largest = std::max(largest, bits & kMagnitude);
  }
  if (largest < kInfinity) return logits.size();
  return std::find_if(logits.begin(), logits.end(), [](float x) { return !std::isfinite(x); }) - logits.begin();
}

void AppendTopLogits(absl::Span<const float> logits, uint32_t count, std::vector<TokenLogit>* top) {
  if (count == 1) {  // what greedy sampling asks for
    const size_t odd = FirstNotFinite(logits);
    const auto at = odd < logits.size() ? logits.begin() + odd : std::max_element(logits.begin(), logits.end());
    top->push_back({static_cast<uint32_t>(at - logits.begin()), *at});
    return;
  }
  std::vector<TokenLogit> all(logits.size());
  for (uint32_t i = 0; i < logits.size(); ++i) all[i] = {i, logits[i]};
  const size_t wanted = std::min<size_t>(count, all.size());
  std::partial_sort(all.begin(), all.begin() + wanted, all.end(), IsBetter);
  top->insert(top->end(), all.begin(), all.begin() + wanted);
}

uint64_t LogitMass(float logit, float largest, float temperature) {
  return static_cast<uint64_t>(double{std::exp((logit - largest) / temperature)} * kLogitMass + 0.5);
}

void PenalizeLogits(float penalty, absl::Span<const uint64_t> seen, absl::Span<float> logits) {
  for (size_t word = 0; word < seen.size(); ++word) {
    for (uint64_t left = seen[word]; left != 0; left &= left - 1) {
      float& logit = logits[word * 64 + __builtin_ctzll(left)];
      logit = logit > 0 ? logit / penalty : logit * penalty;
    }
  }
}

absl::Status Backend::TopLogits(uint32_t count, absl::Span<const TopRow> rows, std::vector<TokenLogit>* top,
                                std::vector<uint64_t>* masses) {
  std::vector<float> logits;
  if (absl::Status status = Logits(&logits); !status.ok()) return status;
  top->clear();
  const size_t vocab = vocab_size(), each = std::min<size_t>(count, vocab);
  masses->assign(logits.size() / vocab, 0);
  for (size_t r = 0; r < masses->size(); ++r) {
    const TopRow row = rows.empty() ? TopRow() : rows[r];
    const auto of_row = absl::MakeSpan(logits).subspan(r * vocab, vocab);
    if (row.penalty != 1) PenalizeLogits(row.penalty, row.seen, of_row);
    AppendTopLogits(of_row, count, top);
    const float largest = (*top)[r * each].logit;
    if (row.temperature <= 0 || !std::isfinite(largest)) continue;
    for (const float logit : of_row) (*masses)[r] += LogitMass(logit, largest, row.temperature);
  }
  return absl::OkStatus();
}

}  // namespace hga
