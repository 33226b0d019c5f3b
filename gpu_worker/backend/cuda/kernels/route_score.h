// Scores of a token's queries against the summaries of its history, as router/index/score.cc and sketch_score.cc make
// them. A product that is added is fused with its sum, unless __dmul_rn says that it is not.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_SCORE_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_SCORE_H_

#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/kernels/route_args.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {

HGA_DEVICE const uint8_t* RouteRecord(const RouteRecords& r, uint32_t chunk, uint32_t kv_head) {
  return r.pages + r.page_of[chunk] * r.page_bytes + r.first_byte + size_t{kv_head} * r.record_bytes;
}
HGA_DEVICE const int16_t* RouteExtents(const RouteRecords& r, uint32_t chunk, uint32_t kv_head) {
  return reinterpret_cast<const int16_t*>(r.pages + r.page_of[chunk] * r.page_bytes + r.first_extent) +
         size_t{kv_head} * kRouteExtents;
}
HGA_DEVICE uint32_t KeptCount(const RouteKept& kept, uint32_t kv_head) {
  return kept.chunks == nullptr ? kept.most : kept.count[kv_head];
}

// As RotateForSketch, by the whole block: blocks of powers of two, the largest first. x in shared memory.
HGA_DEVICE void RouteRotate(float* x, uint32_t head_dim) {
  for (uint32_t done = 0; done < head_dim;) {
    uint32_t size = 8;
    while (size * 2 <= head_dim - done) size *= 2;
    for (uint32_t half = 1; half < size; half *= 2) {
      for (uint32_t pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
        const uint32_t at = done + pair / half * 2 * half + pair % half;
        const float a = x[at], b = x[at + half];
        x[at] = a + b;
        x[at + half] = a - b;
      }
      __syncthreads();
    }
    const float norm = 1 / sqrtf(static_cast<float>(size));
    for (uint32_t i = threadIdx.x; i < size; i += blockDim.x) x[done + i] *= norm;
    done += size;
  }
  __syncthreads();
}

HGA_DEVICE const RouteDealt* RouteDealtTo(const RouteTablesArgs& a) {
  return a.dealt == nullptr ? nullptr : a.dealt + size_t{blockIdx.x / a.per_head} * a.head_dim;
}

// As WeighForSketch, by the whole block: weights r of a query q. Both in shared memory.
HGA_DEVICE void RouteWeigh(const RouteTablesArgs& a, const float* q, float* r) {
  const RouteDealt* dealt = RouteDealtTo(a);
  if (dealt == nullptr) {
    for (uint32_t d = threadIdx.x; d < a.head_dim; d += blockDim.x) r[d] = q[d] * a.flips[d];
    __syncthreads();
    RouteRotate(r, a.head_dim);
    return;
  }
  for (uint32_t i = threadIdx.x; i < a.head_dim; i += blockDim.x) r[i] = q[dealt[i].channel] * dealt[i].weight;
  __syncthreads();
}

// What it returns, by one thread.
HGA_DEVICE double RouteSpread(const RouteTablesArgs& a, const float* q, const float* r) {
  const RouteDealt* dealt = RouteDealtTo(a);
  double left = 0;
  for (uint32_t c = 0; c < a.head_dim; ++c) {
    // Squares of floats are exact.
    if (dealt == nullptr) {
      left += static_cast<double>(r[c]) * r[c];
    } else {
      left += __dmul_rn(static_cast<double>(q[c]) * q[c], dealt[c].left);
    }
  }
  return static_cast<double>(a.spread_share) * left;
}

// As RoundQueries, by the whole block.
HGA_DEVICE void RouteRound(const RouteTablesArgs& a, const float* q) {
  float widest = 0, all = 0;  // in every thread
  for (uint32_t d = 0; d < a.head_dim; ++d) {
    widest = fmaxf(widest, fabsf(q[d]));
    all += fabsf(q[d]);
  }
  const float infinity = __uint_as_float(0x7f800000u), inverse = kRouteLargestQuery / widest;
  const bool usable = inverse < infinity && all < infinity;
  if (threadIdx.x == 0) a.rounded_steps[blockIdx.x] = usable ? widest / kRouteLargestQuery : 0.0f;
  for (uint32_t d = threadIdx.x; d < a.head_dim; d += blockDim.x) {
    a.rounded[size_t{blockIdx.x} * a.head_dim + d] = usable ? static_cast<int16_t>(rintf(q[d] * inverse)) : 0;
  }
}

HGA_DEVICE void Run(const RouteTablesArgs& a) {
  float* q = reinterpret_cast<float*>(SharedMemory());
  float *r = q + a.head_dim, *sums = r + a.head_dim;
  const size_t first = size_t{blockIdx.x} * a.head_dim;
  const uint32_t rows = a.head_dim / 4;
  for (uint32_t d = threadIdx.x; d < a.head_dim; d += blockDim.x) {
    q[d] = Widen(a.queries[first + d]) * a.scale;
  }
  __syncthreads();
  RouteRound(a, q);
  RouteWeigh(a, q, r);
  for (uint32_t j = threadIdx.x; j < rows; j += blockDim.x) {
    sums[j] = fabsf(r[4 * j]) + fabsf(r[4 * j + 1]) + fabsf(r[4 * j + 2]) + fabsf(r[4 * j + 3]);
  }
  __syncthreads();
  float widest = 0, all = 0;  // in every thread
  for (uint32_t j = 0; j < rows; ++j) {
    widest = fmaxf(widest, sums[j]);
    all += sums[j];
  }
  const bool usable = widest > 0 && all < __uint_as_float(0x7f800000u);
  if (threadIdx.x == 0) {
    a.step[blockIdx.x] = usable ? 2 * widest / kRouteLargestEntry : 0.0f;
    a.offset[blockIdx.x] = usable ? -all : 0.0f;
    a.spread[blockIdx.x] = usable ? static_cast<float>(RouteSpread(a, q, r)) : 0.0f;
  }
  const float inverse = usable ? kRouteLargestEntry / (2 * widest) : 0.0f;
  for (uint32_t i = threadIdx.x; i < rows * 16; i += blockDim.x) {
    const float* of_row = r + i / 16 * 4;
    float sum = sums[i / 16];
    for (uint32_t b = 0; b < 4; ++b) sum += (i >> b & 1) != 0 ? of_row[b] : -of_row[b];
    const float entry = fminf(fmaxf(sum * inverse, 0.0f), kRouteLargestEntry);
    a.entries[size_t{blockIdx.x} * rows * 16 + i] = static_cast<uint8_t>(rintf(entry));
  }
}

HGA_DEVICE float RouteScoreOf(int32_t sum, float step) {
  const float score = static_cast<float>(sum) * step;
  return score > kRouteLowest ? score : kRouteLowest;
}

HGA_DEVICE void Run(const RouteCoarseArgs& a) {
  const uint32_t lane = threadIdx.x % kRouteCentreThreads;
  const uint32_t wanted = (blockIdx.x * blockDim.x + threadIdx.x) / kRouteCentreThreads;
  const uint32_t chunk = Least(wanted, a.chunks - 1);  // the threads of a warp stay together
  const uint8_t* centre = RouteRecord(a.records, chunk, blockIdx.y);
  const float scale = *reinterpret_cast<const float*>(centre + a.head_dim);
  for (uint32_t h = 0; h < a.per_head; ++h) {
    const uint32_t head = blockIdx.y * a.per_head + h;
    const int16_t* query = a.rounded + size_t{head} * a.head_dim;
    int32_t sum = 0;
    for (uint32_t x = lane; x < a.head_dim; x += kRouteCentreThreads) {
      sum += query[x] * static_cast<int8_t>(centre[x]);
    }
    int32_t reach = 0;
    if (a.ranks != nullptr) {
      const int16_t* extents = RouteExtents(a.records, chunk, blockIdx.y);
      const int32_t value = query[a.dealt[size_t{blockIdx.y} * a.head_dim + lane].wide];
      reach = value > 0 ? value * extents[lane] : -value * extents[kRouteWide + lane];
    }
    for (uint32_t step = kRouteCentreThreads / 2; step > 0; step /= 2) {
      sum += __shfl_xor_sync(kFullWarp, sum, step);
      reach += __shfl_xor_sync(kFullWarp, reach, step);
    }
    if (lane == 0 && wanted < a.chunks) {
      const float step = a.rounded_steps[head] * scale;
      const size_t at = size_t{head} * a.stride + chunk;
      a.scores[at] = RouteScoreOf(sum, step);
      if (a.ranks != nullptr) a.ranks[at] = RouteScoreOf(sum + reach, step);
    }
  }
}

// Entries of four heads side by side in a word: sums of those at even and at odd bytes have 16 bits each.
struct RouteSums {
  uint32_t even, odd;
};
HGA_DEVICE void AddEntries(uint32_t word, RouteSums* sums) {
  sums->even += word & 0x00ff00ffu;
  sums->odd += word >> 8 & 0x00ff00ffu;
}
HGA_DEVICE uint32_t SumOf(const RouteSums& sums, uint32_t head) {
  return (head % 2 == 0 ? sums.even : sums.odd) >> (head / 2 * 16) & 0xffffu;
}

// Shared memory: the tables, [head group][row][16] words.
HGA_DEVICE void PackTables(const RouteFineArgs& a, uint32_t kv_head, uint32_t* tables) {
  const uint32_t entries = a.head_dim / 4 * 16, groups = (a.per_head + 3) / 4;
  for (uint32_t i = threadIdx.x; i < groups * entries; i += blockDim.x) {
    uint32_t word = 0;
    for (uint32_t b = 0; b < 4; ++b) {
      const uint32_t head = i / entries * 4 + b;
      if (head >= a.per_head) break;
      word |= uint32_t{a.entries[(size_t{kv_head} * a.per_head + head) * entries + i % entries]} << (8 * b);
    }
    tables[i] = word;
  }
}

HGA_DEVICE void Run(const RouteFineArgs& a) {
  uint32_t* tables = reinterpret_cast<uint32_t*>(SharedMemory());
  const uint32_t kv_head = blockIdx.y, rows = a.head_dim / 4;
  PackTables(a, kv_head, tables);
  __syncthreads();
  const uint32_t i = blockIdx.x * (blockDim.x / kWarp) + Warp();
  if (i >= KeptCount(a.kept, kv_head)) return;
  const uint32_t chunk = a.kept.chunks == nullptr ? i : a.kept.chunks[size_t{kv_head} * a.kept.most + i];
  const uint8_t* record = RouteRecord(a.records, chunk, kv_head);
  const float token_scale = *reinterpret_cast<const float*>(record + a.head_dim + sizeof(float));
  const uint8_t* tokens = record + a.head_dim + 2 * sizeof(float);
  const uint8_t* signs = tokens + 64;
  // A lane's bytes are signs of two tokens.
  const uint32_t token = Lane() % 2 * 16 + Lane() / 2;
  for (uint32_t group = 0; group * 4 < a.per_head; ++group) {
    const uint32_t* table = tables + group * rows * 16;
    RouteSums sums[2] = {{0, 0}, {0, 0}};
    HGA_UNROLL_SOME
    for (uint32_t j = 0; j < rows; ++j) {
      const uint32_t byte = signs[j * 32 + Lane()];
      AddEntries(table[j * 16 + (byte & 15)], &sums[0]);
      AddEntries(table[j * 16 + (byte >> 4)], &sums[1]);
    }
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t t = token + 32 * half;
      if (t >= a.chunk_tokens) continue;
      const float length = static_cast<float>(tokens[t]) * token_scale;
      for (uint32_t h = 0; h < 4 && group * 4 + h < a.per_head; ++h) {
        const size_t head = size_t{kv_head} * a.per_head + group * 4 + h;
        const float dot = fmaf(static_cast<float>(SumOf(sums[half], h)), a.step[head], a.offset[head]);
        const float score = fmaf(length, fmaf(length, a.spread[head], dot), a.coarse[head * a.coarse_stride + chunk]);
        a.scores[head * a.stride + size_t{i} * a.chunk_tokens + t] =
            chunk == 0 && t < a.skipped ? kRouteLowest : score;
      }
    }
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_SCORE_H_
