// From scores to a selection: shares of the attention, and the best of them, as router/index/select.cc picks them.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_PICK_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_PICK_H_

#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/route_args.h"
#include "gpu_worker/backend/cuda/kernels/route_score.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {

HGA_DEVICE Bytes16 FourAt(const float* row, uint32_t i) { return *reinterpret_cast<const Bytes16*>(row + i); }
HGA_DEVICE void StoreFour(float* row, uint32_t i, const float* four) {
  *reinterpret_cast<Bytes16*>(row + i) = {{__float_as_uint(four[0]), __float_as_uint(four[1]), __float_as_uint(four[2]),
                                           __float_as_uint(four[3])}};
}

// Four weights as numbers; zeros from `count` on.
HGA_DEVICE void NumbersAt(const uint16_t* row, uint32_t i, uint32_t count, float* four) {
  uint64_t weights = 0;
  if (i < count) weights = *reinterpret_cast<const uint64_t*>(row + i);
  HGA_UNROLL
  for (uint32_t k = 0; k < 4; ++k) {
    const auto weight = static_cast<uint32_t>(weights >> (16 * k) & 0xffffu);
    four[k] = i + k < count ? __uint_as_float(weight << 16) : 0.0f;
  }
}

// A tile's weights, from `first` on, to shared memory, by kRouteFillThreads; zeros behind the row's change no sum.
HGA_DEVICE void FillTile(const uint16_t* row, uint32_t first, uint32_t count, uint32_t thread, float* tile) {
  float four[4];
  NumbersAt(row, first + 4 * thread, count, four);
  StoreFour(tile, 4 * thread, four);
}

// Adds every kRouteLanes-th value of a tile from the thread's on, one after the other, up to `size` or a little
// further. What is added next is read before.
HGA_DEVICE float AddTile(const float* tile, uint32_t size, float sum) {
  constexpr uint32_t step = kRouteAddedAhead * kRouteLanes;
  float next[kRouteAddedAhead];
  HGA_UNROLL
  for (uint32_t k = 0; k < kRouteAddedAhead; ++k) next[k] = tile[k * kRouteLanes];
  for (uint32_t at = step; at < size; at += step) {
    float now[kRouteAddedAhead];
    HGA_UNROLL
    for (uint32_t k = 0; k < kRouteAddedAhead; ++k) now[k] = next[k];
    HGA_UNROLL
    for (uint32_t k = 0; k < kRouteAddedAhead; ++k) next[k] = tile[at + k * kRouteLanes];
    HGA_UNROLL
    for (uint32_t k = 0; k < kRouteAddedAhead; ++k) sum += now[k];
  }
  HGA_UNROLL
  for (uint32_t k = 0; k < kRouteAddedAhead; ++k) sum += next[k];
  return sum;
}

// Sum of the row's weights in the router's order, in thread 0. The first warp adds up a tile while the others fill the
// next: the one chain of additions takes as long as all the rest.
HGA_DEVICE float SumOfWeights(const RouteSumArgs& a, uint32_t count, float* tiles) {
  const uint16_t* row = a.weights + size_t{blockIdx.x} * a.stride;
  const uint32_t thread = threadIdx.x - kWarp;  // of those that fill
  float sum = 0;  // of the first threads, each every kRouteLanes-th value
  if (Warp() > 0) FillTile(row, 0, count, thread, tiles);
  for (uint32_t first = 0, tile = 0; first < count; first += kRouteTile, tile ^= 1) {
    __syncthreads();
    if (Warp() > 0) {
      FillTile(row, first + kRouteTile, count, thread, tiles + (tile ^ 1) * kRouteTile);
    } else if (threadIdx.x < kRouteLanes) {
      sum = AddTile(tiles + tile * kRouteTile + threadIdx.x, Least(kRouteTile, count - first), sum);
    }
  }
  if (Warp() > 0) return 0;
  for (uint32_t step = kRouteLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
  return sum;
}

// By all blocks of a row of them.
HGA_DEVICE void ClearCounts(RouteCounts* counts, uint32_t groups) {
  Bytes16* four = reinterpret_cast<Bytes16*>(counts);
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < groups * sizeof(RouteCounts) / sizeof(Bytes16);
       i += gridDim.x * blockDim.x) {
    four[i] = {{0, 0, 0, 0}};
  }
}

HGA_DEVICE void Run(const RouteSumArgs& a) {
  float* tiles = reinterpret_cast<float*>(SharedMemory());
  const uint32_t count = KeptCount(a.kept, blockIdx.x / a.per_head) * a.each;
  if (a.counts != nullptr) ClearCounts(a.counts, a.groups);
  const float sum = SumOfWeights(a, count, tiles);
  // What is attended besides weighs 1.
  if (threadIdx.x == 0) a.parts[blockIdx.x] = 1.0f / ((sum + 1.0f) * static_cast<float>(a.per_head));
}

// --- The best of many ---

// What belongs to the best of some shares: all above one of these bits, and the first `ties` of the `equal` ones that
// have them. While digits are missing, those that begin so count as equal. None of them: all that may be taken.
struct RouteCut {
  uint32_t bits, ties, equal;
};
HGA_DEVICE float ShareOf(const RouteCut& cut) { return __uint_as_float(cut.bits); }

// Sum over the threads before, and over the block. sums: a word for each warp.
struct RouteSum {
  uint32_t before, all;
};
HGA_DEVICE RouteSum SumOver(uint32_t mine, uint32_t* sums) {
  uint32_t upto = mine;
  HGA_UNROLL
  for (uint32_t step = 1; step < kWarp; step *= 2) {
    const uint32_t other = __shfl_sync(kFullWarp, upto, (Lane() - step) % kWarp);
    if (Lane() >= step) upto += other;
  }
  __syncthreads();
  if (Lane() == kWarp - 1) sums[Warp()] = upto;
  __syncthreads();
  RouteSum sum = {upto - mine, 0};
  for (uint32_t w = 0; w < blockDim.x / kWarp; ++w) {
    sum.before += w < Warp() ? sums[w] : 0;
    sum.all += sums[w];
  }
  return sum;
}

// Whether a share may be taken at all.
HGA_DEVICE bool Takes(float share, float least) { return share > 0 && share >= least; }

// Bits below a digit. Positive floats sort as their bits.
HGA_DEVICE uint32_t DigitShift(uint32_t digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }

HGA_DEVICE void ClearBins(uint32_t* bins) {
  for (uint32_t b = 4 * threadIdx.x; b < kRouteBins; b += 4 * blockDim.x) {
    *reinterpret_cast<Bytes16*>(bins + b) = {{0, 0, 0, 0}};
  }
  __syncthreads();
}

// Counts the digit of four shares that may be taken and begin as the cut does.
HGA_DEVICE void CountFour(const Bytes16& four, float least, uint32_t digit, const RouteCut& cut, uint32_t* bins) {
  const uint32_t above = digit == 0 ? 0 : ~0u << DigitShift(digit - 1), last = digit == 2 ? kRouteLastBins : kRouteBins;
  HGA_UNROLL
  for (uint32_t k = 0; k < 4; ++k) {
    const uint32_t bits = four.word[k];
    if (!Takes(FloatAt(four, k), least) || (bits & above) != cut.bits) continue;
    atomicAdd(&bins[bits >> DigitShift(digit) & (last - 1)], 1u);
  }
}

// Adds a block's bins to those of all.
HGA_DEVICE void AddBins(const uint32_t* bins, uint32_t* all) {
  for (uint32_t b = threadIdx.x; b < kRouteBins; b += blockDim.x) {
    if (bins[b] != 0) atomicAdd(&all[b], bins[b]);
  }
}

// Finds the cut's next digit: the bin with the last share that is taken, from the top. False: there are fewer shares
// than are wanted. By a block of kThreads.
template <uint32_t kThreads>
HGA_DEVICE bool FindDigit(const uint32_t* bins, uint32_t digit, RouteCut* cut, RouteCutShared* s) {
  constexpr uint32_t kEach = kRouteBins / kThreads;
  const uint32_t first = (kThreads - 1 - threadIdx.x) * kEach;
  uint32_t own[kEach], mine = 0;
  HGA_UNROLL
  for (uint32_t b = 0; b < kEach; b += 4) {
    const Bytes16 four = *reinterpret_cast<const Bytes16*>(bins + first + b);
    HGA_UNROLL
    for (uint32_t k = 0; k < 4; ++k) {
      own[b + k] = four.word[k];
      mine += four.word[k];
    }
  }
  const RouteSum sum = SumOver(mine, s->sums);
  if (sum.all < cut->ties) {
    *cut = {0, 0, 0};
    return false;
  }
  uint32_t above = sum.before;
  HGA_UNROLL
  for (uint32_t b = kEach; b-- > 0;) {
    if (above < cut->ties && above + own[b] >= cut->ties) {
      s->digit = first + b;
      s->above = above;
      s->equal = own[b];
    }
    above += own[b];
  }
  __syncthreads();
  *cut = {cut->bits | s->digit << DigitShift(digit), cut->ties - s->above, s->equal};
  return true;
}

// --- The best chunks of a KV head ---

// By the whole block; zeros behind `count`, up to a multiple of four.
HGA_DEVICE RouteCut CutOf(const float* shares, uint32_t count, uint32_t wanted, RouteCutShared* s) {
  RouteCut cut = {0, wanted, wanted};
  for (uint32_t digit = 0; digit < kRouteDigits; ++digit) {
    ClearBins(s->bins);
    for (uint32_t i = 4 * threadIdx.x; i < count; i += 4 * blockDim.x) {
      CountFour(FourAt(shares, i), 0.0f, digit, cut, s->bins);
    }
    __syncthreads();
    if (!FindDigit<kRouteChooseThreads>(s->bins, digit, &cut, s)) break;
  }
  return cut;
}

HGA_DEVICE void Run(const RouteChooseArgs& a) {
  RouteCutShared* s = reinterpret_cast<RouteCutShared*>(SharedMemory());
  const float* shares = a.shares + size_t{blockIdx.x} * a.stride;
  const RouteCut cut = CutOf(shares, a.chunks_of_range, a.wanted, s);
  const float last = ShareOf(cut);
  // Parts follow each other by thread.
  const uint32_t part = (a.chunks_of_range + blockDim.x - 1) / blockDim.x;
  const uint32_t first = Least(threadIdx.x * part, a.chunks_of_range), end = Least(first + part, a.chunks_of_range);
  uint32_t equal = 0, above = 0;
  for (uint32_t i = first; i < end; ++i) {
    equal += shares[i] == last;
    above += shares[i] > last;
  }
  const uint32_t before = SumOver(equal, s->sums).before;
  uint32_t ties = before >= cut.ties ? 0 : Least(equal, cut.ties - before);
  const RouteSum taken = SumOver(above + ties, s->sums);
  if (threadIdx.x == 0) a.count[blockIdx.x] = taken.all;
  uint32_t at = taken.before;
  for (uint32_t i = first; i < end; ++i) {
    bool take = shares[i] > last;
    if (shares[i] == last && ties > 0) {
      take = true;
      --ties;
    }
    if (take) a.chunks[size_t{blockIdx.x} * a.most + at++] = i;
  }
}

// --- The best keys of a group ---

// Shares of four keys: of heads [first, first + kAhead) of the KV head, added to those before. The loads are under way
// together.
template <uint32_t kAhead>
HGA_DEVICE void AddShares(const RoutePoolArgs& a, uint32_t first, uint32_t i, uint32_t count, float* shares) {
  float numbers[kAhead][4], parts[kAhead];
  HGA_UNROLL
  for (uint32_t h = 0; h < kAhead; ++h) {
    const size_t head = blockIdx.y * a.per_head + Least(first + h, a.per_head - 1);
    NumbersAt(a.weights + head * a.stride, i, count, numbers[h]);
    parts[h] = a.parts[head];
  }
  HGA_UNROLL
  for (uint32_t at = 0; at < 4 * kAhead; ++at) {
    const uint32_t h = at / 4, k = at % 4;
    const float sum = fmaf(numbers[h][k], parts[h], shares[k]);
    shares[k] = first + h < a.per_head ? sum : shares[k];
  }
}

HGA_DEVICE void Run(const RoutePoolArgs& a) {
  uint32_t* bins = reinterpret_cast<uint32_t*>(SharedMemory());
  if (a.counts != nullptr) ClearBins(bins);
  const uint32_t count = KeptCount(a.kept, blockIdx.y) * a.each, i = 4 * (blockIdx.x * blockDim.x + threadIdx.x);
  constexpr uint32_t kAhead = 8;
  float shares[4] = {0, 0, 0, 0};
  for (uint32_t h = 0; i < count && h < a.per_head; h += kAhead) AddShares<kAhead>(a, h, i, count, shares);
  if (i < a.stride) StoreFour(a.shares + size_t{blockIdx.y} * a.stride, i, shares);
  if (a.counts == nullptr) return;
  const Bytes16 four = {{__float_as_uint(shares[0]), __float_as_uint(shares[1]), __float_as_uint(shares[2]),
                         __float_as_uint(shares[3])}};
  CountFour(four, a.least, 0, {0, 0, 0}, bins);
  __syncthreads();
  AddBins(bins, a.counts[blockIdx.y / a.heads].bins[0]);
}

// The part of a block: chunks from `first` on of a KV head.
struct RoutePart {
  uint32_t head, first;
};
HGA_DEVICE RoutePart PartOf(const RouteGroups& g) {
  const uint32_t parts = (g.most + kRoutePartChunks - 1) / kRoutePartChunks;
  return {blockIdx.y * g.heads + blockIdx.x / parts, blockIdx.x % parts * kRoutePartChunks};
}
// How often each of the last digits occurs in a part of the block's group.
HGA_DEVICE uint32_t* PartCounts(const RouteGroups& g, uint32_t part) {
  return g.part_counts + (size_t{blockIdx.y} * gridDim.x + part) * kRouteLastBins;
}

// From the digits that are counted.
HGA_DEVICE RouteCut CutOf(const RouteGroups& g, uint32_t digits, RouteCutShared* s) {
  RouteCut cut = {0, g.wanted, g.wanted};
  for (uint32_t digit = 0; digit < digits; ++digit) {
    if (!FindDigit<kRouteRowThreads>(g.counts[blockIdx.y].bins[digit], digit, &cut, s)) break;
  }
  return cut;
}

HGA_DEVICE void Run(const RouteCountArgs& a) {
  RouteCutShared* s = reinterpret_cast<RouteCutShared*>(SharedMemory());
  const RouteGroups& g = a.groups;
  const RoutePart part = PartOf(g);
  const uint32_t before = part.first * g.each, size = Least(kRoutePartChunks * g.each, g.stride - before);
  const float* shares = g.shares + size_t{part.head} * g.stride + before;
  constexpr uint32_t kOwn = kRoutePartChunks * 64 / 4 / kRouteRowThreads;  // the part's shares in fours
  Bytes16 own[kOwn];  // read while the cut is looked for
  HGA_UNROLL
  for (uint32_t k = 0; k < kOwn; ++k) {
    const uint32_t i = 4 * (k * kRouteRowThreads + threadIdx.x);
    own[k] = i < size ? FourAt(shares, i) : Bytes16{{0, 0, 0, 0}};
  }
  const RouteCut cut = CutOf(g, a.digit, s);
  if (cut.ties == 0) return;
  ClearBins(s->bins);
  HGA_UNROLL
  for (uint32_t k = 0; k < kOwn; ++k) CountFour(own[k], g.least, a.digit, cut, s->bins);
  __syncthreads();
  AddBins(s->bins, g.counts[blockIdx.y].bins[a.digit]);
  if (a.digit + 1 < kRouteDigits) return;
  uint32_t* counts = PartCounts(g, blockIdx.x);
  for (uint32_t b = threadIdx.x; b < kRouteLastBins; b += blockDim.x) counts[b] = s->bins[b];
}

// Of those that are equal to the cut, how many lie before the warp's. own: of the thread's.
HGA_DEVICE uint32_t EqualBefore(const RouteGroups& g, const RouteCut& cut, uint32_t own, RouteCutShared* s) {
  uint32_t mine = 0;  // of the parts before
  for (uint32_t part = threadIdx.x; part < blockIdx.x; part += blockDim.x) {
    mine += PartCounts(g, part)[cut.bits % kRouteLastBins];
  }
  const uint32_t parts = SumOver(mine, s->sums).all;
  return parts + __shfl_sync(kFullWarp, SumOver(own, s->sums).before, 0);
}

HGA_DEVICE void Run(const RouteTakeArgs& a) {
  RouteCutShared* s = reinterpret_cast<RouteCutShared*>(SharedMemory());
  const RouteGroups& g = a.groups;
  const RoutePart part = PartOf(g);
  const float* shares = g.shares + size_t{part.head} * g.stride;
  constexpr uint32_t kOwn = kRoutePartChunks / (kRouteRowThreads / kWarp);  // chunks of a warp
  const uint32_t first = part.first + Warp() * kOwn;
  float own[kOwn][2];  // a lane's of a chunk, 32 apart; read while the cut is looked for
  HGA_UNROLL
  for (uint32_t i = 0; i < 2 * kOwn; ++i) {
    const uint32_t chunk = first + i / 2, t = i % 2 * kWarp + Lane();
    own[i / 2][i % 2] = chunk < g.most && t < g.each ? shares[chunk * g.each + t] : 0.0f;
  }
  const RouteCut cut = CutOf(g, kRouteDigits, s);
  const float last = ShareOf(cut);
  // Where they are all taken, their order is of no account.
  uint32_t rank = 0;
  if (cut.ties < cut.equal) {
    uint32_t equal = 0;
    HGA_UNROLL
    for (uint32_t i = 0; i < 2 * kOwn; ++i) equal += own[i / 2][i % 2] == last;
    rank = EqualBefore(g, cut, equal, s);
  }
  HGA_UNROLL
  for (uint32_t c = 0; c < kOwn; ++c) {
    uint64_t mask = 0;
    HGA_UNROLL
    for (uint32_t half = 0; half < 2; ++half) {
      const float share = own[c][half];
      const uint32_t equal = __ballot_sync(kFullWarp, share == last), before = (1u << Lane()) - 1;
      const bool tie = share == last && rank + __popc(equal & before) < cut.ties;
      mask |= uint64_t{__ballot_sync(kFullWarp, tie || (share > last && share >= g.least))} << (half * kWarp);
      rank += __popc(equal);
    }
    if (Lane() == 0 && first + c < g.most) a.masks[size_t{part.head} * g.most + first + c] = mask;
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_PICK_H_
