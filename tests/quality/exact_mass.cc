#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/quality/exact_mass.cc"
#include "common/kv/kv_rows.h"
#include "hwy/foreach_target.h"
// Highway's headers come after foreach_target.
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

#include "tests/quality/exact_mass.h"

#include <algorithm>
#include <cmath>

#include "dnnl.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

float LargestSimd(const float* x, size_t count) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  float largest = x[0];
  size_t i = 0;
  if (count >= lanes) {
    auto top = hn::LoadU(d, x);
    for (; i + lanes <= count; i += lanes) top = hn::Max(top, hn::LoadU(d, x + i));
    largest = hn::GetLane(hn::MaxOfLanes(d, top));
  }
  for (; i < count; ++i) largest = std::max(largest, x[i]);
  return largest;
}

// Sum of e^(x - shift); out (may be x, may be null) gets the terms.
double ExpSumSimd(const float* x, size_t count, float shift, float* out) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  const auto vshift = hn::Set(d, shift);
  double sum = 0;
  size_t i = 0;
  while (i + lanes <= count) {  // partial sums in float stay short
    auto part = hn::Zero(d);
    for (size_t end = std::min(count, i + 64 * lanes); i + lanes <= end; i += lanes) {
      const auto e = hn::Exp(d, hn::Sub(hn::LoadU(d, x + i), vshift));
      if (out != nullptr) hn::StoreU(e, d, out + i);
      part = hn::Add(part, e);
    }
    sum += hn::GetLane(hn::SumOfLanes(d, part));
  }
  for (; i < count; ++i) {
    const float e = std::exp(x[i] - shift);
    if (out != nullptr) out[i] = e;
    sum += e;
  }
  return sum;
}

double WeightedDifferenceSimd(const float* p, const float* a, const float* b, size_t count) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  double sum = 0;
  size_t i = 0;
  while (i + lanes <= count) {
    auto part = hn::Zero(d);
    for (size_t end = std::min(count, i + 64 * lanes); i + lanes <= end; i += lanes) {
      part = hn::MulAdd(hn::LoadU(d, p + i), hn::Sub(hn::LoadU(d, a + i), hn::LoadU(d, b + i)), part);
    }
    sum += hn::GetLane(hn::SumOfLanes(d, part));
  }
  for (; i < count; ++i) sum += double{p[i]} * (double{a[i]} - b[i]);
  return sum;
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(LargestSimd);
HWY_EXPORT(ExpSumSimd);
HWY_EXPORT(WeightedDifferenceSimd);

double SoftmaxInPlace(float* x, size_t count) {
  const float largest = HWY_DYNAMIC_DISPATCH(LargestSimd)(x, count);
  const double sum = HWY_DYNAMIC_DISPATCH(ExpSumSimd)(x, count, largest, x);
  const auto scale = static_cast<float>(1 / sum);
  for (size_t i = 0; i < count; ++i) x[i] *= scale;
  return largest + std::log(sum);
}

double LogSumExp(const float* x, size_t count) {
  const float largest = HWY_DYNAMIC_DISPATCH(LargestSimd)(x, count);
  return largest + std::log(HWY_DYNAMIC_DISPATCH(ExpSumSimd)(x, count, largest, nullptr));
}

double WeightedDifference(const float* p, const float* a, const float* b, size_t count) {
  return HWY_DYNAMIC_DISPATCH(WeightedDifferenceSimd)(p, a, b, count);
}

void ExactMass::Load(const StepRows& rows, uint32_t kv_head, const BlockOfChunk& block_of) {
  const uint32_t d = g_.head_dim, per_head = g_.queries_per_kv_head();
  first_position_ = rows.first_position;
  keys_ = size_t{rows.first_position} + rows.rows;
  k_.resize(keys_ * d);
  std::vector<bf16> from(d);
  for (size_t key = 0; key < keys_; ++key) {
    ReadKey(g_, PlaceInBlock(g_, block_of(key / g_.chunk_tokens), kv_head, key % g_.chunk_tokens), from.data());
    for (uint32_t i = 0; i < d; ++i) k_[key * d + i] = ToFloat(from[i]);
  }
  const size_t queries = size_t{rows.rows} * per_head;
  q_.resize(queries * d);
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  for (uint32_t row = 0; row < rows.rows; ++row) {
    const bf16* from = rows.queries + (size_t{row} * g_.query_heads + kv_head * per_head) * d;
    for (size_t i = 0; i < size_t{per_head} * d; ++i) q_[row * size_t{per_head} * d + i] = ToFloat(from[i]) * scale;
  }
  scores_.resize(queries * keys_);
  dnnl_sgemm('N', 'T', queries, keys_, d, 1.0f, q_.data(), d, k_.data(), d, 0.0f, scores_.data(), keys_);
}

float* ExactMass::Softmax(uint32_t row) {
  const uint32_t per_head = g_.queries_per_kv_head();
  float* scores = &scores_[size_t{row} * per_head * keys_];
  for (uint32_t h = 0; h < per_head; ++h) SoftmaxInPlace(scores + h * keys_, first_position_ + row + 1);
  return scores;
}

}  // namespace hga
#endif  // HWY_ONCE
