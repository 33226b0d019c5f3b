#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "gpu_worker/backend/cpu/integer_gemm.cc"
#include "hwy/foreach_target.h"
// Highway's headers come after foreach_target.
#include "hwy/highway.h"

#include "gpu_worker/backend/cpu/integer_gemm.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "common/base/prefetch.h"
#include "gpu_worker/backend/cpu/pair_sums-inl.h"
#include "gpu_worker/backend/cpu/weight_blocks-inl.h"
#include "hwy/cache_control.h"

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

// Outputs, as many as a panel has or fewer, and blocks of their weights that are unpacked together.
struct Slice {
  uint32_t first, outputs;  // rows of the weights
  uint32_t first_block, blocks;
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

// Outputs behind the slice's are zero. Its blocks are multiples of the format's.
template <class Type>
HWY_INLINE void Unpack(const TensorView& w, const Slice& slice, size_t width, Panel* panel) {
  constexpr uint32_t kPerBlock = Type::kElements / kIntegerBlock, kStep = Type::kStep;
  static_assert(kSliceBlocks % kPerBlock == 0, "a slice holds whole blocks");
  const size_t row_bytes = w.row_bytes();
  for (uint32_t o = 0; o < width; o += 4) {
    const uint32_t some = o < slice.outputs ? std::min(4u, slice.outputs - o) : 0;
    for (uint32_t block = 0; block < slice.blocks; block += kPerBlock) {
      const uint8_t* from[4];
      BlockScales<kPerBlock> scales[4];
      for (uint32_t r = 0; r < some; ++r) {
        from[r] = w.data + (slice.first + o + r) * row_bytes +
                  size_t{(slice.first_block + block) / kPerBlock} * Type::kBytes;
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

// Asks for the weights of the next slice, a few lines beside each tile: what a core asks for beyond some 24 lines it
// waits for at once.
class Ahead {
 public:
  // per_block, block_bytes: the format's block has so many times 32 weights, and bytes. turns: calls of Ask.
  Ahead(const TensorView& w, const Slice& slice, uint32_t per_block, uint32_t block_bytes, uint32_t turns)
      : row_(w.row(slice.first) + size_t{slice.first_block / per_block} * block_bytes),
        row_bytes_(w.row_bytes()),
        lines_(slice.blocks / per_block * block_bytes / kCacheLine + 2),  // it begins and ends within one
        rows_(slice.outputs),
        lines_a_turn_((rows_ * lines_ + turns - 1) / turns) {}

  void Ask() {
    for (size_t i = 0; i < lines_a_turn_ && rows_ > 0; ++i) {
      hwy::Prefetch(row_ + line_ * kCacheLine);
      if (++line_ < lines_) continue;
      line_ = 0;
      row_ += row_bytes_;
      --rows_;
    }
  }

 private:
  const uint8_t* row_;
  size_t row_bytes_, lines_, rows_, lines_a_turn_, line_ = 0;
};

// Where a tile's sums come from and go to.
struct TileSums {
  const float* from;  // [row][panel]; nullptr: zeros
  float* to;          // [row][stride]
  size_t stride;
};

// R rows by two vectors of outputs over the slice's blocks.
template <bool kHasOffset, bool kFused, int R>
HWY_INLINE void Tile(const Panel& panel, const RoundedRows& x, uint32_t row, const Slice& slice, const TileSums& sums) {
  const WI32 d32;
  const WI16 d16;
  const WF32 df;
  const size_t n = hn::Lanes(d32), width = 2 * n;
  const int16_t* values[R];
  const float *x_scales[R], *x_sums[R];
  alignas(64) float local[R][kMaxPanel];  // in registers, where there are enough
  for (int r = 0; r < R; ++r) {
    values[r] = x.values(row + r) + size_t{slice.first_block} * kIntegerBlock;
    x_scales[r] = x.scales(row + r) + slice.first_block;
    x_sums[r] = x.sums(row + r) + slice.first_block;
    for (int v = 0; v < 2; ++v) {
      const float* from = sums.from + r * width + v * n;
      hn::Store(sums.from == nullptr ? hn::Zero(df) : hn::LoadU(df, from), df, &local[r][v * n]);
    }
  }
  const int32_t* w = panel.pairs;
  for (uint32_t b = 0; b < slice.blocks; ++b) {
    PairSums<WI32, kFused> dots[R][2];
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
        std::memcpy(&pair, values[r] + b * kIntegerBlock + 2 * p, sizeof(pair));
        const auto both = hn::BitCast(d16, hn::Set(d32, pair));
        dots[r][0].Add(w0, both);
        dots[r][1].Add(w1, both);
      }
    }
    w += kPairs * width;
    const float* scales = panel.scales + b * width;
    const float* offsets = panel.offsets + b * width;
    for (int r = 0; r < R; ++r) {
      const auto scale = hn::Set(df, x_scales[r][b]);
      for (int v = 0; v < 2; ++v) {
        float* sum = &local[r][v * n];
        auto s = hn::MulAdd(hn::ConvertTo(df, dots[r][v].Get()), hn::Mul(hn::Load(df, scales + v * n), scale),
                            hn::Load(df, sum));
        if (kHasOffset) s = hn::MulAdd(hn::Load(df, offsets + v * n), hn::Set(df, x_sums[r][b]), s);
        hn::Store(s, df, sum);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < 2; ++v) {
      hn::StoreU(hn::Load(df, &local[r][v * n]), df, sums.to + r * sums.stride + v * n);
    }
  }
}

// Not inlined: one copy for all types.
template <bool kHasOffset, bool kFused>
HWY_NOINLINE void TileOf(uint32_t rows, const Panel& panel, const RoundedRows& x, uint32_t row, const Slice& slice,
                         const TileSums& sums) {
  switch (rows) {
    case 1: return Tile<kHasOffset, kFused, 1>(panel, x, row, slice, sums);
    case 2: return Tile<kHasOffset, kFused, 2>(panel, x, row, slice, sums);
    case 3: return Tile<kHasOffset, kFused, 3>(panel, x, row, slice, sums);
    default: return Tile<kHasOffset, kFused, 4>(panel, x, row, slice, sums);
  }
}

template <class Type>
void GemmOf(const TensorView& w, uint32_t first, uint32_t count, const IntegerProduct& product, float* y) {
  constexpr uint32_t kPerBlock = Type::kElements / kIntegerBlock;
  const RoundedRows& x = *product.x;
  const uint32_t rows = product.rows, tiles = (rows + kTileRows - 1) / kTileRows;
  const auto width = static_cast<uint32_t>(2 * hn::Lanes(WI32()));
  const auto tile = FusesPairSums() ? TileOf<Type::kHasOffset, kMayFusePairSums> : TileOf<Type::kHasOffset, false>;
  const uint32_t panels = (count + width - 1) / width, cuts = (x.blocks() + kSliceBlocks - 1) / kSliceBlocks;
  auto& [panel, sums] = ScratchOfThread();
  if (sums.size() < size_t{panels} * rows * width) sums.resize(size_t{panels} * rows * width);
  // All panels pass the same blocks of x before the next ones are taken, so that these stay in the second cache.
  const auto slice_of = [&](uint32_t turn) {
    const uint32_t output = turn % panels * width, block = turn / panels * kSliceBlocks;
    return Slice{first + output, std::min(width, count - output), block, std::min(kSliceBlocks, x.blocks() - block)};
  };
  for (uint32_t turn = 0; turn < panels * cuts; ++turn) {
    const Slice slice = slice_of(turn);
    const bool last = turn + 1 == panels * cuts;
    Unpack<Type>(w, slice, width, &panel);
    Ahead ahead(w, last ? slice : slice_of(turn + 1), kPerBlock, Type::kBytes, tiles);
    float* const kept = &sums[size_t{turn % panels} * rows * width];
    float* const out = y + turn % panels * width;
    const bool begins = turn < panels, ends = turn / panels + 1 == cuts, whole = slice.outputs == width;
    for (uint32_t r = 0; r < rows; r += kTileRows) {
      if (!last) ahead.Ask();
      TileSums to{begins ? nullptr : kept + r * width, kept + r * width, width};
      if (ends && whole) to.to = out + r * product.stride, to.stride = product.stride;
      tile(std::min(kTileRows, rows - r), panel, x, product.first_row + r, slice, to);
    }
    if (!ends || whole) continue;
    for (uint32_t r = 0; r < rows; ++r) std::copy_n(kept + r * width, slice.outputs, out + r * product.stride);
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
