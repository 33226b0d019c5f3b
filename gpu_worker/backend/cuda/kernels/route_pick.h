// From scores to a selection: shares of the attention, and the best of them, as router/index/select.cc picks them.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_PICK_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_PICK_H_

#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/glibc_exp.h"
#include "gpu_worker/backend/cuda/kernels/route_args.h"
#include "gpu_worker/backend/cuda/kernels/route_score.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {

// As RoughExp of the router's vectors: the product and sum have one rounding, what is left of the point is cut off.
HGA_DEVICE float RouteRoughExp(float x) {
  const float bits = fmaxf(fmaf(x, 12102203.2f, 1065353216.0f - 366393.0f), 0.0f);
  return __uint_as_float(static_cast<uint32_t>(bits));
}

HGA_DEVICE void Run(const RouteSoftmaxArgs& a) {
  float* tile = reinterpret_cast<float*>(SharedMemory());
  float* of_warps = tile + kRouteTile;
  const uint32_t count = KeptCount(a.kept, blockIdx.x / a.per_head) * a.each;
  const float* row = a.scores + size_t{blockIdx.x} * a.stride;
  float top = kRouteLowest;
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) top = fmaxf(top, row[i]);
  top = WarpMax(top);
  if (Lane() == 0) of_warps[Warp()] = top;
  __syncthreads();
  for (uint32_t w = 0; w < blockDim.x / kWarp; ++w) top = fmaxf(top, of_warps[w]);
  float sum = 0;  // of the first threads, each every `lanes`th value
  for (uint32_t first = 0; first < count; first += kRouteTile) {
    const uint32_t size = Least(kRouteTile, count - first);
    for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) {
      const float e = RouteRoughExp(row[first + i] - top);
      tile[i] = e;
      a.e[size_t{blockIdx.x} * a.stride + first + i] = e;
    }
    __syncthreads();
    if (threadIdx.x < a.lanes) {
      HGA_UNROLL_SOME
      for (uint32_t i = threadIdx.x; i < size; i += a.lanes) sum += tile[i];
    }
    __syncthreads();
  }
  for (uint32_t step = a.lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
  if (threadIdx.x != 0) return;
  const float besides = a.attended == nullptr ? 0.0f : GlibcExp(a.attended[blockIdx.x] - a.attended_less - top);
  a.weights[blockIdx.x] = 1.0f / ((sum + besides) * static_cast<float>(a.per_head));
}

HGA_DEVICE void Run(const RoutePoolArgs& a) {
  const uint32_t count = KeptCount(a.kept, blockIdx.y) * a.each, all = a.kept.most * a.each;
  const float* weights = a.weights + blockIdx.y * a.per_head;
  for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < all; i += gridDim.x * blockDim.x) {
    float share = 0;
    for (uint32_t h = 0; i < count && h < a.per_head; ++h) {
      share = fmaf(a.e[(size_t{blockIdx.y} * a.per_head + h) * a.stride + i], weights[h], share);
    }
    a.shares[size_t{blockIdx.y} * a.share_stride + i] = share;
  }
}

// --- The best of many ---

// What belongs to the best of some shares: all above `share`, and the first `ties` of those equal to it.
struct RouteCut {
  float share;
  uint32_t ties;
};

// Sum of `mine` over the threads before `place`; places are the block's, each once.
HGA_DEVICE uint32_t SumBefore(uint32_t mine, uint32_t place, uint32_t* sums) {
  sums[place] = mine;
  __syncthreads();
  for (uint32_t step = 1; step < blockDim.x; step *= 2) {
    const uint32_t other = place >= step ? sums[place - step] : 0;
    __syncthreads();
    sums[place] += other;
    __syncthreads();
  }
  const uint32_t before = sums[place] - mine;
  __syncthreads();
  return before;
}

// Whether a share may be taken at all.
HGA_DEVICE bool Takes(float share, float least) { return share > 0 && share >= least; }

// In which bin the `wanted`th lies, counted from the last one, and how many lie above that bin; not enough: there are
// fewer. By the whole block, of kRouteRowThreads.
HGA_DEVICE void FindDigit(uint32_t wanted, RouteCutShared* s) {
  constexpr uint32_t kEach = kRouteBins / kRouteRowThreads;
  uint32_t mine = 0;
  for (uint32_t b = 0; b < kEach; ++b) mine += s->bins[threadIdx.x * kEach + b];
  uint32_t above = SumBefore(mine, blockDim.x - 1 - threadIdx.x, s->sums);
  if (threadIdx.x == 0) s->enough = above + mine >= wanted;
  if (above < wanted && above + mine >= wanted) {
    uint32_t bin = (threadIdx.x + 1) * kEach - 1;
    while (above + s->bins[bin] < wanted) above += s->bins[bin--];
    s->digit = bin;
    s->above = above;
  }
  __syncthreads();
}

// Of value(i), i < count. Positive floats sort as their bits: three digits of them, from the top. By the whole block.
template <typename Value>
HGA_DEVICE RouteCut FindCut(const Value& value, uint32_t count, uint32_t wanted, float least, RouteCutShared* s) {
  uint32_t found = 0;  // the digits so far
  for (uint32_t pass = 0; pass < 3; ++pass) {
    const uint32_t shift = pass == 0 ? 21 : pass == 1 ? 10 : 0, width = pass == 2 ? 10 : 11;
    for (uint32_t b = threadIdx.x; b < kRouteBins; b += blockDim.x) s->bins[b] = 0;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) {
      const float share = value(i);
      if (!Takes(share, least)) continue;
      const uint32_t bits = __float_as_uint(share);
      if (pass > 0 && bits >> (shift + width) != found) continue;
      atomicAdd(&s->bins[bits >> shift & ((1u << width) - 1)], 1u);
    }
    __syncthreads();
    FindDigit(wanted, s);
    if (pass == 0 && s->enough == 0) return RouteCut{0.0f, 0};
    found = found << width | s->digit;
    wanted -= s->above;
    __syncthreads();
  }
  return RouteCut{__uint_as_float(found), wanted};
}

// Of the part [first, end) of a thread: how many ties are its own to take. Parts follow each other by thread.
template <typename Value>
HGA_DEVICE uint32_t OwnTies(const Value& value, uint32_t first, uint32_t end, const RouteCut& cut, uint32_t* sums) {
  uint32_t equal = 0;
  for (uint32_t i = first; i < end; ++i) equal += value(i) == cut.share;
  const uint32_t before = SumBefore(equal, threadIdx.x, sums);
  return before >= cut.ties ? 0 : Least(equal, cut.ties - before);
}

HGA_DEVICE void Run(const RouteChooseArgs& a) {
  RouteCutShared* s = reinterpret_cast<RouteCutShared*>(SharedMemory());
  const float* shares = a.shares + size_t{blockIdx.x} * a.stride;
  const auto value = [&](uint32_t i) { return shares[i]; };
  const RouteCut cut = FindCut(value, a.chunks_of_range, a.wanted, 0.0f, s);
  const uint32_t part = (a.chunks_of_range + blockDim.x - 1) / blockDim.x;
  const uint32_t first = Least(threadIdx.x * part, a.chunks_of_range), end = Least(first + part, a.chunks_of_range);
  const uint32_t own_ties = OwnTies(value, first, end, cut, s->sums);
  uint32_t taken = own_ties;
  for (uint32_t i = first; i < end; ++i) taken += value(i) > cut.share;
  uint32_t at = SumBefore(taken, threadIdx.x, s->sums), ties = own_ties;
  if (threadIdx.x == blockDim.x - 1) a.count[blockIdx.x] = at + taken;
  for (uint32_t i = first; i < end; ++i) {
    bool take = value(i) > cut.share;
    if (value(i) == cut.share && ties > 0) {
      take = true;
      --ties;
    }
    if (take) a.chunks[size_t{blockIdx.x} * a.most + at++] = i;
  }
}

HGA_DEVICE void Run(const RouteTakeArgs& a) {
  RouteCutShared* s = reinterpret_cast<RouteCutShared*>(SharedMemory());
  const uint32_t chunks = a.heads * a.most;  // of all heads of the block
  const size_t begin = size_t{blockIdx.x} * chunks;
  const float* shares = a.shares + begin * a.each;
  const auto value = [&](uint32_t i) { return shares[i]; };
  const RouteCut cut = FindCut(value, chunks * a.each, a.wanted, a.least, s);
  const uint32_t part = (chunks + blockDim.x - 1) / blockDim.x;
  const uint32_t first = Least(threadIdx.x * part, chunks), end = Least(first + part, chunks);
  uint32_t ties = OwnTies(value, first * a.each, end * a.each, cut, s->sums);
  for (uint32_t c = first; c < end; ++c) {
    uint64_t mask = 0;
    for (uint32_t t = 0; t < a.each; ++t) {
      const float share = value(c * a.each + t);
      bool take = share > cut.share && share >= a.least;
      if (share == cut.share && ties > 0) {
        take = true;
        --ties;
      }
      if (take) mask |= uint64_t{1} << t;
    }
    a.masks[begin + c] = mask;
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_PICK_H_
