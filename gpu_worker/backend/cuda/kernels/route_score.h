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

// As WeighForSketch, by the whole block: weights r of a query q, and what it adds up. All in shared memory.
HGA_DEVICE void RouteWeigh(const RouteTablesArgs& a, const float* q, float* r, double* left) {
  const RouteDealt* dealt = RouteDealtTo(a);
  if (dealt == nullptr) {
    for (uint32_t d = threadIdx.x; d < a.head_dim; d += blockDim.x) r[d] = q[d] * a.flips[d];
    __syncthreads();
    RouteRotate(r, a.head_dim);
  }
  for (uint32_t i = threadIdx.x; i < a.head_dim; i += blockDim.x) {
    // Squares of floats are exact.
    if (dealt == nullptr) {
      left[i] = static_cast<double>(r[i]) * r[i];
      continue;
    }
    const RouteDealt of = dealt[i];
    r[i] = q[of.channel] * of.weight;
    left[i] = __dmul_rn(static_cast<double>(q[i]) * q[i], of.left);
  }
  __syncthreads();
}

// What it returns, by one thread: in its order.
HGA_DEVICE double RouteSpread(const RouteTablesArgs& a, const double* left) {
  constexpr uint32_t kAhead = 8;  // what every head is a multiple of
  double sum = 0;
  for (uint32_t c = 0; c < a.head_dim; c += kAhead) {
    double ahead[kAhead];
    HGA_UNROLL
    for (uint32_t k = 0; k < kAhead; ++k) ahead[k] = left[c + k];
    HGA_UNROLL
    for (uint32_t k = 0; k < kAhead; ++k) sum += ahead[k];
  }
  return static_cast<double>(a.spread_share) * sum;
}

// Of magnitudes: the largest, and their sum in their order.
struct RouteMagnitudes {
  float widest, all;
};
// The same in every thread. x: padded with zeros.
HGA_DEVICE RouteMagnitudes MagnitudesOf(const float* x, uint32_t count) {
  RouteMagnitudes m = {0, 0};
  for (uint32_t i = 0; i < count; i += kRouteMagnitudes) {
    Bytes16 ahead[kRouteMagnitudes / 4];
    HGA_UNROLL
    for (uint32_t k = 0; k < kRouteMagnitudes / 4; ++k) ahead[k] = *reinterpret_cast<const Bytes16*>(x + i + 4 * k);
    HGA_UNROLL
    for (uint32_t k = 0; k < kRouteMagnitudes; ++k) {
      const float magnitude = fabsf(FloatAt(ahead[k / 4], k % 4));
      m.widest = fmaxf(m.widest, magnitude);
      m.all += magnitude;
    }
  }
  return m;
}

// As RoundQueries, by the whole block.
HGA_DEVICE void RouteRound(const RouteTablesArgs& a, const float* q) {
  const RouteMagnitudes m = MagnitudesOf(q, a.head_dim);
  const float infinity = __uint_as_float(0x7f800000u), inverse = kRouteLargestQuery / m.widest;
  const bool usable = inverse < infinity && m.all < infinity;
  if (threadIdx.x == 0) a.rounded_steps[blockIdx.x] = usable ? m.widest / kRouteLargestQuery : 0.0f;
  for (uint32_t d = threadIdx.x; d < a.head_dim; d += blockDim.x) {
    a.rounded[size_t{blockIdx.x} * a.head_dim + d] = usable ? static_cast<int16_t>(rintf(q[d] * inverse)) : 0;
  }
}

// Entries of weights r, by the whole block, to the query head's bytes of its tables. sums: of each row's magnitudes.
HGA_DEVICE void WriteEntries(const RouteTablesArgs& a, const float* r, const float* sums, float inverse) {
  const uint32_t words = RouteTableWords(a.head_dim), head = blockIdx.x % a.per_head;
  const size_t group = size_t{blockIdx.x / a.per_head} * RouteTableGroups(a.per_head) + head / 4;
  uint8_t* entries = reinterpret_cast<uint8_t*>(a.entries + group * words) + head % 4;
  for (uint32_t i = threadIdx.x; i < words; i += blockDim.x) {
    const float* of_row = r + i / 16 * 4;
    float sum = sums[i / 16];
    for (uint32_t b = 0; b < 4; ++b) sum += (i >> b & 1) != 0 ? of_row[b] : -of_row[b];
    const float entry = fminf(fmaxf(sum * inverse, 0.0f), kRouteLargestEntry);
    entries[4 * i] = static_cast<uint8_t>(rintf(entry));
  }
}

HGA_DEVICE void Run(const RouteTablesArgs& a) {
  double* left = reinterpret_cast<double*>(SharedMemory());
  float *r = reinterpret_cast<float*>(left + a.head_dim), *q = r + a.head_dim;
  float* sums = q + RouteMagnitudesPadded(a.head_dim);
  const size_t first = size_t{blockIdx.x} * a.head_dim;
  for (uint32_t d = threadIdx.x; d < RouteMagnitudesPadded(a.head_dim); d += blockDim.x) {
    q[d] = d < a.head_dim ? Widen(a.queries[first + d]) * a.scale : 0.0f;
  }
  __syncthreads();
  RouteWeigh(a, q, r, left);
  const uint32_t rows = a.head_dim / 4;
  for (uint32_t j = threadIdx.x; j < RouteMagnitudesPadded(rows); j += blockDim.x) {
    sums[j] = j < rows ? fabsf(r[4 * j]) + fabsf(r[4 * j + 1]) + fabsf(r[4 * j + 2]) + fabsf(r[4 * j + 3]) : 0.0f;
  }
  __syncthreads();
  RouteRound(a, q);
  const RouteMagnitudes m = MagnitudesOf(sums, rows);
  const bool usable = m.widest > 0 && m.all < __uint_as_float(0x7f800000u);
  WriteEntries(a, r, sums, usable ? kRouteLargestEntry / (2 * m.widest) : 0.0f);
  if (threadIdx.x != 0) return;
  const float step = usable ? 2 * m.widest / kRouteLargestEntry : 0.0f;
  const float zero = usable ? m.all / step : 0.0f;
  const uint32_t shift = RouteSumShift(static_cast<uint32_t>(rintf(zero)), a.head_dim);
  a.zero[blockIdx.x] = static_cast<uint32_t>(rintf(zero * static_cast<float>(1u << shift)));
  a.shift[blockIdx.x] = shift;
  a.step[blockIdx.x] = step * kRouteStepsPerNat * static_cast<float>(1u << (22 - shift));
  a.spread[blockIdx.x] = (usable ? static_cast<float>(RouteSpread(a, left)) : 0.0f) * kRouteStepsPerNat * 65536;
}

// As WeightOf.
HGA_DEVICE uint32_t RouteWeight(float score, float reference) {
  const float bits = fmaf(score - reference, kRouteStepsPerNat, static_cast<float>(kRouteWeightOfReference));
  return static_cast<uint32_t>(rintf(fminf(fmaxf(bits, 0.0f), static_cast<float>(kRouteLargestWeight))));
}

HGA_DEVICE float RouteScoreOf(int32_t sum, float step) {
  const float score = static_cast<float>(sum) * step;
  return score > kRouteLowest ? score : kRouteLowest;
}

// Copies by `threads` of them, each with kAhead loads under way. What would lie behind the end is the last again.
template <uint32_t kAhead, typename T>
HGA_DEVICE void CopyAhead(const T* from, uint32_t count, uint32_t thread, uint32_t threads, T* to) {
  for (uint32_t first = thread; first < count; first += kAhead * threads) {
    T ahead[kAhead];
    HGA_UNROLL
    for (uint32_t k = 0; k < kAhead; ++k) ahead[k] = from[Least(first + k * threads, count - 1)];
    HGA_UNROLL
    for (uint32_t k = 0; k < kAhead; ++k) to[Least(first + k * threads, count - 1)] = ahead[k];
  }
}
// By the whole block, 16 bytes at a time.
HGA_DEVICE void CopyToShared(const void* from, uint32_t bytes, void* to) {
  CopyAhead<2>(static_cast<const Bytes16*>(from), static_cast<uint32_t>(bytes / sizeof(Bytes16)), threadIdx.x,
               blockDim.x, static_cast<Bytes16*>(to));
}

// A thread's part of a centre, four channels at a time.
inline constexpr uint32_t kCentreWords = 256 / 4 / kRouteCentreThreads;  // of the longest head
HGA_DEVICE uint32_t CentreChannel(uint32_t lane, uint32_t word) { return 4 * (word * kRouteCentreThreads + lane); }

// Its part of the product with a query.
HGA_DEVICE int32_t CentrePart(const int16_t* query, const uint32_t* own, uint32_t lane, uint32_t head_dim) {
  int32_t sum = 0;
  HGA_UNROLL
  for (uint32_t w = 0; w < kCentreWords; ++w) {
    const uint32_t x = CentreChannel(lane, w);
    if (x >= head_dim) break;
    HGA_UNROLL
    for (uint32_t k = 0; k < 4; ++k) sum += query[x + k] * static_cast<int8_t>(own[w] >> (8 * k) & 0xff);
  }
  return sum;
}

HGA_DEVICE void Run(const RouteCoarseArgs& a) {
  int16_t* queries = reinterpret_cast<int16_t*>(SharedMemory());
  const uint32_t lane = threadIdx.x % kRouteCentreThreads;
  const uint32_t wanted = (blockIdx.x * blockDim.x + threadIdx.x) / kRouteCentreThreads;
  const uint32_t chunk = Least(wanted, a.chunks - 1);  // the threads of a warp stay together
  const uint8_t* centre = RouteRecord(a.records, chunk, blockIdx.y);
  const float scale = *reinterpret_cast<const float*>(centre + a.head_dim);
  uint32_t own[kCentreWords];
  HGA_UNROLL
  for (uint32_t w = 0; w < kCentreWords; ++w) {
    own[w] = *reinterpret_cast<const uint32_t*>(centre + Least(CentreChannel(lane, w), a.head_dim - 4));
  }
  uint32_t wide = 0;
  int32_t up = 0, down = 0;
  if (a.dealt != nullptr) {
    const int16_t* extents = RouteExtents(a.records, chunk, blockIdx.y);
    wide = a.dealt[size_t{blockIdx.y} * a.head_dim + lane].wide;
    up = extents[lane];
    down = extents[kRouteWide + lane];
  }
  CopyToShared(a.rounded + size_t{blockIdx.y} * a.per_head * a.head_dim, RouteCoarseSharedBytes(a.head_dim, a.per_head),
               queries);
  __syncthreads();
  for (uint32_t h = 0; h < a.per_head; ++h) {
    const uint32_t head = blockIdx.y * a.per_head + h;
    const int16_t* query = queries + h * a.head_dim;
    int32_t sum = CentrePart(query, own, lane, a.head_dim);
    const int32_t value = query[wide];
    int32_t reach = value > 0 ? value * up : -value * down;
    for (uint32_t step = kRouteCentreThreads / 2; step > 0; step /= 2) {
      sum += __shfl_xor_sync(kFullWarp, sum, step);
      reach += __shfl_xor_sync(kFullWarp, reach, step);
    }
    if (lane == 0 && wanted < a.chunks) {
      const float step = a.rounded_steps[head] * scale;
      const size_t at = size_t{head} * a.stride + chunk;
      a.scores[at] = RouteScoreOf(sum, step);
      if (a.ranks == nullptr) continue;
      const float rank = RouteScoreOf(sum + reach, step);
      a.ranks[at] = static_cast<uint16_t>(RouteWeight(rank, a.attended[head] - a.attended_less));
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

// What turns a query head's sums of a chunk into weights, in 16 bits each.
struct RouteFactors {
  int32_t step, spread, centre, zero;
  uint32_t shift;
};
HGA_DEVICE RouteFactors FactorsOf(const RouteFineArgs& a, size_t head, uint32_t chunk, float token_scale) {
  const float most = 32767.0f;
  const float centre = fmaf(a.coarse[head * a.coarse_stride + chunk] - a.attended[head], kRouteStepsPerNat,
                            static_cast<float>(kRouteWeightOfReference));
  return {static_cast<int32_t>(rintf(fminf(a.step[head] * token_scale, most))),
          static_cast<int32_t>(rintf(fminf(a.spread[head] * (token_scale * token_scale), most))),
          static_cast<int32_t>(rintf(fminf(fmaxf(centre, -32768.0f), most))), static_cast<int32_t>(a.zero[head]),
          a.shift[head]};
}
HGA_DEVICE RouteFactors FactorsOfLane(const RouteFactors& own, uint32_t lane) {
  return {__shfl_sync(kFullWarp, own.step, lane), __shfl_sync(kFullWarp, own.spread, lane),
          __shfl_sync(kFullWarp, own.centre, lane), __shfl_sync(kFullWarp, own.zero, lane),
          __shfl_sync(kFullWarp, own.shift, lane)};
}

// As the router's vectors of 16 bits: rounded products of their upper halves, sums that stay in range.
HGA_DEVICE int32_t RouteProduct(int32_t a, int32_t b) { return (a * b + (1 << 14)) >> 15; }
HGA_DEVICE int32_t RouteWithin(int32_t x, int32_t least, int32_t most) {
  return x < least ? least : x > most ? most : x;
}
HGA_DEVICE int32_t RouteAdd(int32_t a, int32_t b) { return RouteWithin(a + b, -32768, 32767); }
HGA_DEVICE uint16_t RouteWeigh(uint32_t sum, uint32_t scale, const RouteFactors& f) {
  const int32_t apart = static_cast<int32_t>(sum << f.shift) - f.zero;
  const int32_t factor = RouteProduct(static_cast<int32_t>(scale << 7), f.step);
  const auto over = static_cast<int32_t>(scale * scale * static_cast<uint32_t>(f.spread) >> 16);
  const int32_t half = RouteProduct(apart, factor);
  const int32_t weight = RouteAdd(RouteAdd(RouteAdd(half, half), over), f.centre);
  return static_cast<uint16_t>(RouteWithin(weight, 0, kRouteLargestWeight));
}

// Sums of the two tokens that a lane's bytes are signs of. Entries have 7 bits: those of two rows, an even number, are
// added as bytes. What overflows is above the heads that there are.
HGA_DEVICE void SumSigns(const uint32_t* table, const uint8_t* signs, uint32_t rows, RouteSums* sums) {
  HGA_UNROLL_SOME
  for (uint32_t j = 0; j < rows; j += 2, table += 32) {
    const uint32_t byte = signs[j * 32 + Lane()], other = signs[j * 32 + 32 + Lane()];
    AddEntries(table[byte & 15] + table[16 + (other & 15)], &sums[0]);
    AddEntries(table[byte >> 4] + table[16 + (other >> 4)], &sums[1]);
  }
}

HGA_DEVICE void Run(const RouteFineArgs& a) {
  uint32_t* tables = reinterpret_cast<uint32_t*>(SharedMemory());
  const uint32_t kv_head = blockIdx.y, groups = RouteTableGroups(a.per_head), words = RouteTableWords(a.head_dim);
  uint32_t* signs = tables + groups * words + Warp() * RouteSignWords(a.head_dim);
  const uint32_t wanted = blockIdx.x * (blockDim.x / kWarp) + Warp(), kept = KeptCount(a.kept, kv_head);
  if (kept == 0) return;
  const uint32_t i = Least(wanted, kept - 1);  // a warp without a chunk goes along as far as the barrier
  const uint32_t chunk = a.kept.chunks == nullptr ? i : a.kept.chunks[size_t{kv_head} * a.kept.most + i];
  CopyToShared(a.entries + size_t{kv_head} * groups * words, groups * words * sizeof(uint32_t), tables);
  const uint8_t* record = RouteRecord(a.records, chunk, kv_head);
  const float token_scale = *reinterpret_cast<const float*>(record + a.head_dim + sizeof(float));
  const uint8_t* tokens = record + a.head_dim + 2 * sizeof(float);
  const uint32_t token = Lane() % 2 * 16 + Lane() / 2;  // and 32 further on
  const uint32_t scales[2] = {tokens[token], tokens[token + 32]};
  CopyAhead<8>(reinterpret_cast<const uint32_t*>(tokens + 64), RouteSignWords(a.head_dim), Lane(), kWarp, signs);
  __syncthreads();
  if (wanted >= kept) return;
  for (uint32_t group = 0; group < groups; ++group) {
    const uint32_t heads = Least(4, a.per_head - 4 * group);
    const size_t first = size_t{kv_head} * a.per_head + 4 * group;
    const RouteFactors of_lane = FactorsOf(a, first + Lane() % heads, chunk, token_scale);
    RouteSums sums[2] = {{0, 0}, {0, 0}};
    SumSigns(tables + group * words, reinterpret_cast<const uint8_t*>(signs), a.head_dim / 4, sums);
    for (uint32_t h = 0; h < heads; ++h) {
      const RouteFactors factors = FactorsOfLane(of_lane, h);
      uint16_t* weights = a.weights + (first + h) * a.stride + size_t{i} * a.chunk_tokens;
      HGA_UNROLL
      for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t t = token + 32 * half;
        const uint16_t weight = RouteWeigh(SumOf(sums[half], h), scales[half], factors);
        if (t < a.chunk_tokens) weights[t] = chunk == 0 && t < a.skipped ? uint16_t{0} : weight;
      }
    }
  }
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ROUTE_SCORE_H_
