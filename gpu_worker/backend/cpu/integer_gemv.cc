#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "gpu_worker/backend/cpu/integer_gemv.cc"
#include "hwy/foreach_target.h"
// Highway's headers come after foreach_target.
#include "hwy/highway.h"

#include <algorithm>

#include "common/base/prefetch.h"
#include "gpu_worker/backend/cpu/integer_gemm.h"
#include "gpu_worker/backend/cpu/pair_sums-inl.h"
#include "gpu_worker/backend/cpu/weight_blocks-inl.h"
#include "hwy/cache_control.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_SCALAR  // as in integer_gemm.cc

void IntegerGemvT(const TensorView&, uint32_t, uint32_t, const IntegerProduct&, float*) {}

#else

using I32 = hn::Repartition<int32_t, I16>;
using F32 = hn::Rebind<float, I32>;

// Bytes between what is read and what is asked for: enough for the memory's answer, and across the end of a page, where
// the hardware stops asking. It may lie behind the tensor: asking for it does nothing then.
constexpr size_t kAhead = 2048;
// Lines of two blocks, about: the hardware finds those between.
constexpr size_t LinesOf(size_t bytes) { return bytes <= kCacheLine ? 1 : (bytes + kCacheLine / 2) / kCacheLine; }

// R rows of x at a time. Blocks go to two sums in turn, since one would wait for its own additions.
template <class Type, int R>
HWY_INLINE void GemvRows(const uint8_t* row, const RoundedRows& x, uint32_t first_row, float* dots) {
  constexpr uint32_t kPerBlock = Type::kElements / kIntegerBlock, kStep = Type::kStep;
  const I16 d16;
  const F32 df;
  const hn::CappedTag<float, kPerBlock> ds;  // scales of a block of the format
  hn::Vec<F32> sums[R][2];
  hn::Vec<decltype(ds)> offsets[R];  // of several scales at a time
  float offset[R] = {};              // of one
  const int16_t* values[R];
  const float *scales[R], *of_blocks[R];
  for (int r = 0; r < R; ++r) {
    sums[r][0] = sums[r][1] = hn::Zero(df);
    offsets[r] = hn::Zero(ds);
    values[r] = x.values(first_row + r);
    scales[r] = x.scales(first_row + r);
    of_blocks[r] = x.sums(first_row + r);
  }
  const auto add = [&](uint32_t block, uint32_t turn) HWY_ATTR __attribute__((always_inline)) {
    const uint8_t* from = row + size_t{block} * Type::kBytes;
    const size_t first = size_t{block} * kPerBlock;
    BlockScales<kPerBlock> w;
    Type::Scales(from, &w);
    alignas(32) float both[R][kPerBlock];
    for (int r = 0; r < R; ++r) {
      if (kPerBlock == 1) {
        both[r][0] = w.scale[0] * scales[r][first];
        if (Type::kHasOffset) offset[r] += w.offset[0] * of_blocks[r][first];
        continue;
      }
      for (size_t i = 0; i < kPerBlock; i += hn::Lanes(ds)) {
        hn::Store(hn::Mul(hn::Load(ds, w.scale + i), hn::LoadU(ds, scales[r] + first + i)), ds, both[r] + i);
        if (!Type::kHasOffset) continue;
        offsets[r] = hn::MulAdd(hn::Load(ds, w.offset + i), hn::LoadU(ds, of_blocks[r] + first + i), offsets[r]);
      }
    }
    for (uint32_t j = 0; j < kPerBlock; j += kStep) {
#pragma GCC unroll 4
      for (uint32_t i = 0; i < kStep; ++i) {
        V16 q[kBlockVectors];
        Type::Quants(from, w, j, i, q);
        for (int r = 0; r < R; ++r) {
          PairSums<I32> dot;
          for (size_t v = 0; v < kBlockVectors; ++v) {
            dot.Add(q[v], hn::LoadU(d16, values[r] + (first + j + i) * kIntegerBlock + Start(v)));
          }
          auto& sum = sums[r][(turn + i) % 2];
          sum = hn::MulAdd(hn::ConvertTo(df, dot.Get()), hn::Set(df, both[r][j + i]), sum);
        }
      }
    }
  };
  const uint32_t blocks = x.blocks() / kPerBlock;
  uint32_t b = 0;
  for (; b + 2 <= blocks; b += 2) {
    const uint8_t* ahead = row + size_t{b} * Type::kBytes + kAhead;
    for (size_t line = 0; line < LinesOf(2 * Type::kBytes); ++line) hwy::Prefetch(ahead + line * kCacheLine);
    add(b, 0);
    add(b + 1, 1);
  }
  if (b < blocks) add(b, 0);
  for (int r = 0; r < R; ++r) {
    dots[r] = hn::GetLane(hn::SumOfLanes(df, hn::Add(sums[r][0], sums[r][1])));
    if (Type::kHasOffset) dots[r] += kPerBlock == 1 ? offset[r] : hn::GetLane(hn::SumOfLanes(ds, offsets[r]));
  }
}

template <class Type>
void GemvOf(const TensorView& w, uint32_t first, uint32_t count, const IntegerProduct& product, float* y) {
  const RoundedRows& x = *product.x;
  const size_t row_bytes = w.row_bytes();
  const uint8_t* row = w.row(first);
  for (uint32_t o = 0; o < count; ++o, row += row_bytes) {
    float dots[4];
    for (uint32_t r = 0; r < product.rows; r += 4) {
      const uint32_t some = std::min(4u, product.rows - r), at = product.first_row + r;
      switch (some) {
        case 1: GemvRows<Type, 1>(row, x, at, dots); break;
        case 2: GemvRows<Type, 2>(row, x, at, dots); break;
        case 3: GemvRows<Type, 3>(row, x, at, dots); break;
        default: GemvRows<Type, 4>(row, x, at, dots);
      }
      for (uint32_t i = 0; i < some; ++i) y[(r + i) * product.stride + o] = dots[i];
    }
  }
}

void IntegerGemvT(const TensorView& w, uint32_t first, uint32_t count, const IntegerProduct& product, float* y) {
  WithBlocks(w.type, [&](auto type) { GemvOf<decltype(type)>(w, first, count, product, y); });
}

#endif  // HWY_TARGET == HWY_SCALAR
}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(IntegerGemvT);

void IntegerGemv(const TensorView& w, uint32_t first, uint32_t count, const IntegerProduct& product, float* y) {
  HWY_DYNAMIC_DISPATCH(IntegerGemvT)(w, first, count, product, y);
}

}  // namespace hga
#endif  // HWY_ONCE
