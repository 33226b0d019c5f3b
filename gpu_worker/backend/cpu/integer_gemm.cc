#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "gpu_worker/backend/cpu/integer_gemm.cc"
#include "hwy/foreach_target.h"
// Highway's headers come after foreach_target.
#include "hwy/highway.h"

#include "gpu_worker/backend/cpu/integer_gemm.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "gpu_worker/backend/cpu/pair_sums-inl.h"
#include "gpu_worker/backend/cpu/weight_blocks-inl.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {
#if HWY_TARGET == HWY_SCALAR  // one lane cannot hold two neighbours; every CPU that matters has more

bool HasBlocksT(TensorType) { return false; }
void RoundRowT(const float*, uint32_t, float, int16_t*, float*, float*) {}
void IntegerGemmT(const TensorView&, uint32_t, uint32_t, const IntegerProduct&, float*) {}

#else

void RoundRowT(const float* x, uint32_t cols, float most, int16_t* values, float* scales, float* sums) {
  const hn::CappedTag<float, 8> df;
  const hn::Rebind<int16_t, decltype(df)> d16;
  const hn::Rebind<int32_t, decltype(df)> d32;
  const size_t n = hn::Lanes(df);
  for (uint32_t i = 0; i < cols; i += kIntegerBlock, ++scales, ++sums) {
    auto largest = hn::Zero(df), nothing = hn::Zero(df);
    for (size_t j = 0; j < kIntegerBlock; j += n) {
      const auto part = hn::LoadU(df, x + i + j);
      largest = hn::Max(largest, hn::Abs(part));
      nothing = hn::MulAdd(part, hn::Zero(df), nothing);
    }
    const float top = hn::GetLane(hn::MaxOfLanes(df, largest));
    // 0, or not a number if an activation is infinite or none: integers would hide it.
    const float poison = hn::GetLane(hn::SumOfLanes(df, nothing));
    const auto inverse = hn::Set(df, top > 0 ? most / top : 0.0f);
    auto sum = hn::Zero(d32);
    for (size_t j = 0; j < kIntegerBlock; j += n) {
      const auto rounded = hn::NearestInt(hn::Mul(hn::LoadU(df, x + i + j), inverse));
      sum = hn::Add(sum, rounded);
      hn::StoreU(hn::DemoteTo(d16, rounded), d16, values + i + j);
    }
    *scales = top / most + poison;
    *sums = *scales * static_cast<float>(hn::GetLane(hn::SumOfLanes(d32, sum)));
  }
}

// GEMM. Lanes are outputs: a lane has two neighbours of the inner dimension of one output, and is multiplied with the
// same two of a row of x.
using WI32 = hn::ScalableTag<int32_t>;
using WI16 = hn::Repartition<int16_t, WI32>;
using WF32 = hn::Rebind<float, WI32>;
constexpr size_t kMaxLanes = hn::MaxLanes(WI32());
constexpr size_t kMaxPanel = 2 * kMaxLanes;
// Rows of x of one call of the innermost loops: with two vectors of outputs each, what 16 registers hold.
constexpr uint32_t kTileRows = 4;
// Blocks of a panel that are unpacked at a time: 16 KiB of them with AVX2, half of the first cache.
constexpr uint32_t kSliceBlocks = 16;
constexpr uint32_t kPairs = kIntegerBlock / 2;

// Some blocks of a panel of outputs.
struct Panel {
  alignas(64) int32_t pairs[kSliceBlocks * kPairs * kMaxPanel];  // [block][pair][output]
  alignas(64) float scales[kSliceBlocks * kMaxPanel];            // [block][output]
  alignas(64) float offsets[kSliceBlocks * kMaxPanel];           // likewise
};

struct GemmScratch {
  Panel panel;
  std::vector<float> sums;  // [panel of outputs][row][width]
};

// On the heap: what is thread-local itself takes room of the stack of every thread of the process, and there are
// libraries that make small ones.
HWY_NOINLINE GemmScratch& ScratchOfThread() {
  thread_local const auto scratch = std::make_unique<GemmScratch>();
  return *scratch;
}

// Four outputs' blocks of 16 pairs, turned: out[pair * width + output].
HWY_INLINE void Transpose4(const int32_t (&in)[4][kPairs], size_t width, int32_t* out) {
  const hn::Full128<int32_t> d;
  const hn::Repartition<int64_t, decltype(d)> d64;
  for (size_t p = 0; p < kPairs; p += 4) {
    const auto a = hn::Load(d, in[0] + p), b = hn::Load(d, in[1] + p), c = hn::Load(d, in[2] + p),
               e = hn::Load(d, in[3] + p);
    const auto ab0 = hn::BitCast(d64, hn::InterleaveLower(d, a, b)),
               ab1 = hn::BitCast(d64, hn::InterleaveUpper(d, a, b));
    const auto ce0 = hn::BitCast(d64, hn::InterleaveLower(d, c, e)),
               ce1 = hn::BitCast(d64, hn::InterleaveUpper(d, c, e));
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, ab0, ce0)), d, out + p * width);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, ab0, ce0)), d, out + (p + 1) * width);
    hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d64, ab1, ce1)), d, out + (p + 2) * width);
    hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d64, ab1, ce1)), d, out + (p + 3) * width);
  }
}

// Outputs behind `count` are zero. first_block and blocks are multiples of the format's block.
template <class Type>
HWY_INLINE void Unpack(const TensorView& w, uint32_t first, uint32_t count, uint32_t first_block, uint32_t blocks,
                       size_t width, Panel* panel) {
  constexpr uint32_t kPerBlock = Type::kElements / kIntegerBlock, kStep = Type::kStep;
  static_assert(kSliceBlocks % kPerBlock == 0, "a slice holds whole blocks");
  const size_t row_bytes = w.row_bytes();
  for (uint32_t o = 0; o < width; o += 4) {
    const uint32_t some = o < count ? std::min(4u, count - o) : 0;
    for (uint32_t block = 0; block < blocks; block += kPerBlock) {
      const uint8_t* from[4];
      BlockScales<kPerBlock> scales[4];
      for (uint32_t r = 0; r < some; ++r) {
        from[r] = w.data + (first + o + r) * row_bytes + size_t{(first_block + block) / kPerBlock} * Type::kBytes;
        Type::Scales(from[r], &scales[r]);
      }
      for (uint32_t j = 0; j < kPerBlock; j += kStep) {
#pragma GCC unroll 4
        for (uint32_t i = 0; i < kStep; ++i) {
          const size_t at = block + j + i;
          alignas(64) int32_t q[4][kPairs] = {};
          for (uint32_t r = 0; r < 4; ++r) {
            panel->scales[at * width + o + r] = r < some ? scales[r].scale[j + i] : 0;
            if (Type::kHasOffset) panel->offsets[at * width + o + r] = r < some ? scales[r].offset[j + i] : 0;
            if (r >= some) continue;
            V16 vectors[kBlockVectors];
            Type::Quants(from[r], scales[r], j, i, vectors);
            for (size_t v = 0; v < kBlockVectors; ++v) {
              hn::Store(vectors[v], I16(), reinterpret_cast<int16_t*>(q[r]) + Start(v));
            }
          }
          Transpose4(q, width, &panel->pairs[at * kPairs * width + o]);
        }
      }
    }
  }
}

// R rows by two vectors of outputs over the panel's blocks. sums: [R][panel], added to.
template <bool kHasOffset, bool kFused, int R>
HWY_INLINE void Tile(const Panel& panel, const RoundedRows& x, uint32_t row, uint32_t first_block, uint32_t blocks,
                     float* sums) {
  const WI32 d32;
  const WI16 d16;
  const WF32 df;
  const size_t n = hn::Lanes(d32), width = 2 * n;
  const int32_t* w = panel.pairs;
  for (uint32_t b = 0; b < blocks; ++b) {
    PairSums<WI32, kFused> dots[R][2];
    const int16_t* values[R];
    for (int r = 0; r < R; ++r) values[r] = x.values(row + r) + size_t{first_block + b} * kIntegerBlock;
#pragma GCC unroll 16
    for (uint32_t p = 0; p < kPairs; ++p) {
      const int32_t* at = w + p * width;
      auto w0 = hn::BitCast(d16, hn::Load(d32, at)), w1 = hn::BitCast(d16, hn::Load(d32, at + n));
#if HWY_ARCH_X86
      // gcc would load them again for each row, and loads would be what it waits for.
      asm("" : "+v"(w0.raw), "+v"(w1.raw));
#endif
      for (int r = 0; r < R; ++r) {
        int32_t pair;
        std::memcpy(&pair, values[r] + 2 * p, sizeof(pair));
        const auto both = hn::BitCast(d16, hn::Set(d32, pair));
        dots[r][0].Add(w0, both);
        dots[r][1].Add(w1, both);
      }
    }
    w += kPairs * width;
    const float* scales = panel.scales + b * width;
    const float* offsets = panel.offsets + b * width;
    for (int r = 0; r < R; ++r) {
      const auto scale = hn::Set(df, x.scales(row + r)[first_block + b]);
      for (int v = 0; v < 2; ++v) {
        float* sum = sums + r * width + v * n;
        auto s = hn::MulAdd(hn::ConvertTo(df, dots[r][v].Get()), hn::Mul(hn::Load(df, scales + v * n), scale),
                            hn::LoadU(df, sum));
        if (kHasOffset) {
          s = hn::MulAdd(hn::Load(df, offsets + v * n), hn::Set(df, x.sums(row + r)[first_block + b]), s);
        }
        hn::StoreU(s, df, sum);
      }
    }
  }
}

// Not inlined: one copy for all types.
template <bool kHasOffset, bool kFused>
HWY_NOINLINE void TileOf(uint32_t rows, const Panel& panel, const RoundedRows& x, uint32_t row, uint32_t first_block,
                       uint32_t blocks, float* sums) {
  switch (rows) {
    case 1: return Tile<kHasOffset, kFused, 1>(panel, x, row, first_block, blocks, sums);
    case 2: return Tile<kHasOffset, kFused, 2>(panel, x, row, first_block, blocks, sums);
    case 3: return Tile<kHasOffset, kFused, 3>(panel, x, row, first_block, blocks, sums);
    default: return Tile<kHasOffset, kFused, 4>(panel, x, row, first_block, blocks, sums);
  }
}

// Two vectors of each row. Not by std::copy_n, whose calls for 64 bytes each took a thirtieth of a product's time.
void StorePanel(const float* sums, uint32_t rows, size_t some, size_t stride, float* y) {
  const WF32 df;
  const size_t n = hn::Lanes(df), width = 2 * n;
  for (uint32_t r = 0; r < rows; ++r, sums += width, y += stride) {
    if (some < width) {
      std::copy_n(sums, some, y);
      continue;
    }
    hn::StoreU(hn::LoadU(df, sums), df, y);
    hn::StoreU(hn::LoadU(df, sums + n), df, y + n);
  }
}

template <class Type>
void GemmOf(const TensorView& w, uint32_t first, uint32_t count, const IntegerProduct& product, float* y) {
  const RoundedRows& x = *product.x;
  const uint32_t rows = product.rows;
  const size_t width = 2 * hn::Lanes(WI32());
  const auto tile = FusesPairSums() ? TileOf<Type::kHasOffset, kMayFusePairSums> : TileOf<Type::kHasOffset, false>;
  auto& [panel, sums] = ScratchOfThread();
  const size_t panels = (count + width - 1) / width;
  sums.assign(panels * rows * width, 0.0f);
  // A slice of x passes all panels before the next one is taken, so that it stays in the second cache.
  for (uint32_t b = 0; b < x.blocks(); b += kSliceBlocks) {
    const uint32_t blocks = std::min(kSliceBlocks, x.blocks() - b);
    for (size_t p = 0; p < panels; ++p) {
      const auto o = static_cast<uint32_t>(p * width);
      Unpack<Type>(w, first + o, count - o, b, blocks, width, &panel);
      for (uint32_t r = 0; r < rows; r += kTileRows) {
        float* const to = &sums[(p * rows + r) * width];
        tile(std::min(kTileRows, rows - r), panel, x, product.first_row + r, b, blocks, to);
      }
    }
  }
  for (size_t p = 0; p < panels; ++p) {
    StorePanel(&sums[p * rows * width], rows, std::min<size_t>(width, count - p * width), product.stride,
               y + p * width);
  }
}

void IntegerGemmT(const TensorView& w, uint32_t first, uint32_t count, const IntegerProduct& product, float* y) {
  WithBlocks(w.type, [&](auto type) { GemmOf<decltype(type)>(w, first, count, product, y); });
}

bool HasBlocksT(TensorType type) {
  return WithBlocks(type, [](auto) {});
}

#endif  // HWY_TARGET == HWY_SCALAR
}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(RoundRowT);
HWY_EXPORT(IntegerGemmT);
HWY_EXPORT(HasBlocksT);

bool HasIntegerGemm(TensorType type, uint32_t cols) {
  return cols % kIntegerBlock == 0 && HWY_DYNAMIC_DISPATCH(HasBlocksT)(type);
}

float LargestActivation(TensorType type) { return type == TensorType::kQ6_K ? 16383 : 32767; }

void RoundedRows::Resize(uint32_t rows, uint32_t cols, float most) {
  rows_ = rows;
  cols_ = cols;
  most_ = most;
  const auto grow = [](auto* buffer, size_t size) {
    if (buffer->size() < size) buffer->resize(size);
  };
  grow(&values_, size_t{rows} * blocks());
  grow(&scales_, size_t{rows} * blocks());
  grow(&sums_, size_t{rows} * blocks());
}

void RoundedRows::SetRow(uint32_t row, const float* x) {
  const size_t first_block = size_t{row} * blocks();
  HWY_DYNAMIC_DISPATCH(RoundRowT)(x, cols_, most_, values_[first_block].of, &scales_[first_block], &sums_[first_block]);
}

void IntegerGemm(const TensorView& w, uint32_t first, uint32_t count, const IntegerProduct& product, float* y) {
  HWY_DYNAMIC_DISPATCH(IntegerGemmT)(w, first, count, product, y);
}

}  // namespace hga
#endif  // HWY_ONCE
