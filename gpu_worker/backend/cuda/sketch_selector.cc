#include "gpu_worker/backend/cuda/sketch_selector.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/status.h"
#include "common/kv/sketch.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {
namespace {

// Chunks whose keys are scored, at most: as many as the default settings keep. With more the router selects.
constexpr uint32_t kMostKept = 4096;

uint64_t Stride(uint64_t count) { return (count + 63) / 64 * 64; }
uint32_t Blocks(uint32_t count, uint32_t of) { return (count + of - 1) / of; }

}  // namespace

uint32_t SketchSelector::MostKept(uint32_t chunks) { return std::min(chunks, kMostKept); }

// Queries, what is attended anyway, pages.
uint64_t SketchSelector::InBytes(const KvGeometry& g, uint32_t chunks) {
  return DeviceBytes(uint64_t{g.query_heads} * (g.head_dim * sizeof(bf16) + sizeof(float)) + chunks * sizeof(uint32_t));
}

uint64_t SketchSelector::OutBytes(const KvGeometry& g, uint32_t most) {
  return uint64_t{g.kv_heads} * (most * (sizeof(uint64_t) + sizeof(uint32_t)) + sizeof(uint32_t));
}

// Calls place(&pointer, elements) for every buffer.
template <typename Place>
void SketchSelector::ForEachBuffer(const KvGeometry& g, const SummaryMethod& method, uint32_t chunks, Buffers* b,
                                   const Place& place) {
  const uint64_t heads = g.query_heads, row = Stride(chunks);
  const uint64_t units = std::max(row, Stride(uint64_t{MostKept(chunks)} * g.chunk_tokens));
  place(&b->flips, method.dealt ? 0 : g.head_dim);
  place(&b->dealt, method.dealt ? uint64_t{g.layers} * g.kv_heads * g.head_dim : 0);
  place(&b->rounded, heads * g.head_dim);
  place(&b->rounded_steps, heads);
  place(&b->step, heads);
  place(&b->spread, heads);
  place(&b->parts, heads);
  place(&b->zero, heads);
  place(&b->shift, heads);
  place(&b->entries, uint64_t{g.kv_heads} * RouteTableGroups(g.queries_per_kv_head()) * RouteTableWords(g.head_dim));
  place(&b->coarse, heads * row);
  place(&b->weights, heads * units);
  place(&b->shares, g.kv_heads * units);
  place(&b->counts, g.kv_heads);
  place(&b->part_counts, uint64_t{g.kv_heads} * Blocks(MostKept(chunks), kRoutePartChunks) * kRouteLastBins);
  place(&b->in, kBlocks * InBytes(g, chunks));
  place(&b->out, kBlocks * DeviceBytes(OutBytes(g, MostKept(chunks))));
}

uint64_t SketchSelector::Bytes(const KvGeometry& geometry, const SummaryMethod& method, uint32_t chunks) {
  Buffers unused;
  uint64_t bytes = 0;
  ForEachBuffer(geometry, method, chunks, &unused,
                [&](auto** pointer, uint64_t elements) { bytes += DeviceBytes(elements * sizeof(**pointer)); });
  return bytes;
}

absl::StatusOr<std::unique_ptr<SketchSelector>> SketchSelector::Create(Device* device, DeviceMemory* memory,
                                                                       const KvGeometry& geometry,
                                                                       const SummaryMethod& method, uint32_t chunks) {
  std::unique_ptr<SketchSelector> s(new SketchSelector(device, geometry, method, chunks));
  HGA_ASSIGN_OR_RETURN(s->memory_, memory->Allocate(DeviceUse::kSummaries, Bytes(geometry, method, chunks)));
  uint8_t* at = s->memory_.as();
  ForEachBuffer(geometry, method, chunks, &s->buffers_, [&](auto** pointer, uint64_t elements) {
    *pointer = reinterpret_cast<std::remove_reference_t<decltype(*pointer)>>(at);
    at += DeviceBytes(elements * sizeof(**pointer));
  });
  HGA_ASSIGN_OR_RETURN(s->in_, PinnedBuffer::Allocate(device, kBlocks * InBytes(geometry, chunks)));
  HGA_ASSIGN_OR_RETURN(s->out_,
                       PinnedBuffer::Allocate(device, kBlocks * DeviceBytes(OutBytes(geometry, MostKept(chunks)))));
  s->most_.assign(kBlocks, 0);
  if (method.dealt) return s;
  auto* flips = s->in_.as<float>();
  for (uint32_t d = 0; d < geometry.head_dim; ++d) flips[d] = SketchFlips(d) ? -1.0f : 1.0f;
  HGA_RETURN_IF_ERROR(
      device->CopyToDevice(DeviceStream::kRoute, s->buffers_.flips, flips, geometry.head_dim * sizeof(float)));
  HGA_RETURN_IF_ERROR(device->Synchronize(DeviceStream::kRoute));  // the buffer is filled again
  return s;
}

// Layer by layer, for each of which there is room in the buffer.
absl::Status SketchSelector::Use(const SummaryMethod& method) {
  if (method.plan == plan_) return absl::OkStatus();
  const KvGeometry& g = geometry_;
  const size_t of_layer = size_t{g.kv_heads} * g.head_dim;
  static_assert(sizeof(RouteDealt) <= kBlocks * sizeof(bf16), "queries of all blocks take no less");
  static_assert(kRouteWide == kWideChannels, "kernels read the extents of common/kv/sketch.h");
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    auto* dealt = in_.as<RouteDealt>();
    for (size_t i = 0; i < of_layer; ++i) {
      const SketchDeal& deal = *method.deal(layer, static_cast<uint32_t>(i / g.head_dim));
      const SketchDeal::Bit& bit = deal.bits[i % g.head_dim];
      const uint16_t wide = i % g.head_dim < kWideChannels ? deal.wide[i % g.head_dim] : 0;
      dealt[i] = {bit.channel, wide, bit.weight, deal.left[i % g.head_dim]};
    }
    HGA_RETURN_IF_ERROR(device_->CopyToDevice(DeviceStream::kRoute, buffers_.dealt + layer * of_layer, dealt,
                                              of_layer * sizeof(RouteDealt)));
    HGA_RETURN_IF_ERROR(device_->Synchronize(DeviceStream::kRoute));  // the buffer is filled again
  }
  plan_ = method.plan;
  return absl::OkStatus();
}

// As Select's first level.
uint64_t SketchSelector::KeptChunks(const RouteBlock& block, const SelectRules& rules) const {
  const uint64_t budget = std::min(block.budget_keys[0], block.keys(geometry_));
  const uint64_t best = (budget * rules.overprovision + geometry_.chunk_tokens - 1) / geometry_.chunk_tokens;
  const uint64_t chunks = block.route_upto - block.first_chunk(geometry_);
  return std::min(std::max<uint64_t>(best, rules.scan_chunks), chunks);
}

bool SketchSelector::Takes(const RouteBlock& block, const SelectRules& rules) const {
  if (block.tokens != 1 || block.residual || block.top_p < 1) return false;
  if (!NeedsDevice(block)) return true;
  if (block.route_upto - block.first_chunk(geometry_) > chunks_ || !KnowsAttended(block)) return false;
  return KeptChunks(block, rules) <= MostKept(chunks_);
}

// What weights are beside.
bool SketchSelector::KnowsAttended(const RouteBlock& block) const {
  if (block.attended == nullptr) return false;
  return std::all_of(block.attended, block.attended + geometry_.query_heads,
                     [](float x) { return std::isfinite(x) && x > kRouteLowest; });
}

bool SketchSelector::NeedsDevice(const RouteBlock& block) const {
  if (block.empty(geometry_) || block.budget_keys[0] == 0) return false;
  return block.budget_keys[0] != kEverything &&
         (block.least_share > 0 || block.budget_keys[0] < block.keys(geometry_));
}

uint32_t* SketchSelector::pages_of(uint32_t number) {
  const size_t before = size_t{geometry_.query_heads} * (geometry_.head_dim * sizeof(bf16) + sizeof(float));
  return reinterpret_cast<uint32_t*>(in_.as() + number * InBytes(geometry_, chunks_) + before);
}

SketchSelector::Answer SketchSelector::AnswerAt(uint8_t* out, uint32_t most) const {
  Answer a;
  a.masks = reinterpret_cast<uint64_t*>(out);
  a.chunks = reinterpret_cast<uint32_t*>(a.masks + size_t{geometry_.kv_heads} * most);
  a.count = a.chunks + size_t{geometry_.kv_heads} * most;
  return a;
}

SketchSelector::Range SketchSelector::RangeOf(const RouteBlock& block, const SelectRules& rules) const {
  const KvGeometry& g = geometry_;
  Range r;
  r.chunks = block.route_upto - block.first_chunk(g);
  r.skipped = block.first_key % g.chunk_tokens;
  r.most = static_cast<uint32_t>(KeptChunks(block, rules));
  r.groups = block.shared ? 1 : g.kv_heads;
  r.wanted = std::min(block.budget_keys[0], block.keys(g)) * (g.kv_heads / r.groups);
  r.least = block.least_share;
  r.coarse_stride = Stride(r.chunks);
  r.stride = Stride(uint64_t{r.most} * g.chunk_tokens);
  return r;
}

RouteRecords SketchSelector::RecordsOf(uint32_t number, uint32_t layer, const SummaryPages& pages) const {
  const uint8_t* in = buffers_.in + number * InBytes(geometry_, chunks_);
  const size_t before = size_t{geometry_.query_heads} * (geometry_.head_dim * sizeof(bf16) + sizeof(float));
  RouteRecords r;
  r.pages = pages.data();
  r.page_of = reinterpret_cast<const uint32_t*>(in + before);
  r.page_bytes = pages.page_bytes();
  r.first_byte = layer * method_.layer_bytes(geometry_);
  r.record_bytes = static_cast<uint32_t>(method_.record_bytes(geometry_));
  r.first_extent =
      method_.chunk_bytes(geometry_) + uint64_t{layer} * geometry_.kv_heads * kRouteExtents * sizeof(int16_t);
  return r;
}

absl::Status SketchSelector::CopyIn(uint32_t number, const RouteBlock& block, uint32_t chunks) {
  const size_t heads = geometry_.query_heads, queries = heads * geometry_.head_dim * sizeof(bf16);
  const size_t at = number * InBytes(geometry_, chunks_);
  std::memcpy(in_.as() + at, block.queries, queries);
  std::memcpy(in_.as() + at + queries, block.attended, heads * sizeof(float));
  return device_->CopyToDevice(DeviceStream::kRoute, buffers_.in + at, in_.as() + at,
                               queries + heads * sizeof(float) + chunks * sizeof(uint32_t));
}

absl::Status SketchSelector::Start(uint32_t number, uint32_t layer, const RouteBlock& block, const SelectRules& rules,
                                   const SummaryPages& pages) {
  const KvGeometry& g = geometry_;
  const Range r = RangeOf(block, rules);
  HGA_RETURN_IF_ERROR(CopyIn(number, block, r.chunks));
  const RouteRecords records = RecordsOf(number, layer, pages);
  const uint8_t* in = buffers_.in + number * InBytes(g, chunks_);
  const auto* attended = reinterpret_cast<const float*>(in + size_t{g.query_heads} * g.head_dim * sizeof(bf16));
  const size_t out_at = number * DeviceBytes(OutBytes(g, MostKept(chunks_)));
  const Answer answer = AnswerAt(buffers_.out + out_at, r.most);
  HGA_RETURN_IF_ERROR(LaunchTables(number, layer));
  const bool all = r.most == r.chunks;
  HGA_RETURN_IF_ERROR(LaunchCoarse(r, layer, records, attended));
  if (!all) HGA_RETURN_IF_ERROR(LaunchChoose(r, answer));
  const RouteKept kept = {all ? nullptr : answer.chunks, all ? nullptr : answer.count, r.most};
  HGA_RETURN_IF_ERROR(LaunchFine(r, records, kept, attended));
  HGA_RETURN_IF_ERROR(LaunchTake(r, answer.masks));
  most_[number] = r.most;
  return device_->CopyToHost(DeviceStream::kRoute, out_.as() + out_at, buffers_.out + out_at, OutBytes(g, r.most));
}

absl::Status SketchSelector::LaunchTables(uint32_t number, uint32_t layer) {
  const KvGeometry& g = geometry_;
  RouteTablesArgs a{};
  a.queries = reinterpret_cast<const bf16*>(buffers_.in + number * InBytes(g, chunks_));
  if (plan_ != nullptr) a.dealt = buffers_.dealt + size_t{layer} * g.kv_heads * g.head_dim;
  a.flips = buffers_.flips;
  a.rounded = buffers_.rounded;
  a.rounded_steps = buffers_.rounded_steps;
  a.entries = buffers_.entries;
  a.step = buffers_.step;
  a.spread = buffers_.spread;
  a.zero = buffers_.zero;
  a.shift = buffers_.shift;
  a.spread_share = plan_ == nullptr ? kSketchSpread : static_cast<float>(kSpreadShare);
  a.per_head = g.queries_per_kv_head();
  a.head_dim = g.head_dim;
  a.scale = 1.0f / std::sqrt(static_cast<float>(g.head_dim));
  return device_->Launch(DeviceStream::kRoute,
                         {g.query_heads, 1, kRouteScoreThreads, RouteTablesSharedBytes(g.head_dim)}, a);
}

// Ranks only where chunks are chosen.
absl::Status SketchSelector::LaunchCoarse(const Range& r, uint32_t layer, const RouteRecords& records,
                                          const float* attended) {
  const KvGeometry& g = geometry_;
  RouteCoarseArgs a{};
  a.records = records;
  a.rounded = buffers_.rounded;
  a.rounded_steps = buffers_.rounded_steps;
  a.scores = buffers_.coarse;
  if (r.most < r.chunks) {
    a.ranks = buffers_.weights;
    a.attended = attended;
    a.attended_less = std::log(static_cast<float>(g.chunk_tokens));  // a chunk's score stands for each of its tokens
    if (plan_ != nullptr) a.dealt = buffers_.dealt + size_t{layer} * g.kv_heads * g.head_dim;
  }
  a.chunks = r.chunks;
  a.stride = static_cast<uint32_t>(r.coarse_stride);
  a.per_head = g.queries_per_kv_head();
  a.head_dim = g.head_dim;
  return device_->Launch(
      DeviceStream::kRoute,
      {Blocks(r.chunks, kRouteScoreThreads / kRouteCentreThreads), g.kv_heads, kRouteScoreThreads,
       RouteCoarseSharedBytes(g.head_dim, a.per_head)},
      a);
}

// Shares of the attention, [kv_heads][stride], by `each` weights of every chunk that is kept. count: their first digit.
absl::Status SketchSelector::LaunchShares(const Range& r, const RouteKept& kept, uint32_t each, size_t stride,
                                          bool count) {
  const KvGeometry& g = geometry_;
  const auto row = static_cast<uint32_t>(stride), per_head = g.queries_per_kv_head();
  RouteCounts* const counts = count ? buffers_.counts : nullptr;
  HGA_RETURN_IF_ERROR(device_->Launch(
      DeviceStream::kRoute, {g.query_heads, 1, kRouteSumThreads, kRouteSumSharedBytes},
      RouteSumArgs{buffers_.weights, buffers_.parts, kept, each, row, per_head, counts, r.groups}));
  const uint32_t shared = count ? kRouteBins * sizeof(uint32_t) : 0;
  return device_->Launch(DeviceStream::kRoute,
                         {Blocks(row, 4 * kRouteRowThreads), g.kv_heads, kRouteRowThreads, shared},
                         RoutePoolArgs{buffers_.weights, buffers_.parts, buffers_.shares, kept, each, row, per_head,
                                       counts, g.kv_heads / r.groups, r.least});
}

absl::Status SketchSelector::LaunchChoose(const Range& r, const Answer& answer) {
  HGA_RETURN_IF_ERROR(LaunchShares(r, {nullptr, nullptr, r.chunks}, 1, r.coarse_stride, /*count=*/false));
  return device_->Launch(
      DeviceStream::kRoute, {geometry_.kv_heads, 1, kRouteChooseThreads, sizeof(RouteCutShared)},
      RouteChooseArgs{buffers_.shares, answer.chunks, answer.count, r.chunks, static_cast<uint32_t>(r.coarse_stride),
                      r.most, r.most});
}

absl::Status SketchSelector::LaunchFine(const Range& r, const RouteRecords& records, const RouteKept& kept,
                                        const float* attended) {
  const KvGeometry& g = geometry_;
  const uint32_t per_head = g.queries_per_kv_head();
  RouteFineArgs a{records,
                  kept,
                  buffers_.coarse,
                  buffers_.entries,
                  buffers_.step,
                  buffers_.spread,
                  buffers_.zero,
                  buffers_.shift,
                  attended,
                  buffers_.weights,
                  static_cast<uint32_t>(r.coarse_stride),
                  static_cast<uint32_t>(r.stride),
                  per_head,
                  g.head_dim,
                  g.chunk_tokens,
                  r.skipped};
  HGA_RETURN_IF_ERROR(device_->Launch(DeviceStream::kRoute,
                                      {Blocks(r.most, kRouteScoreThreads / 32), g.kv_heads, kRouteScoreThreads,
                                       RouteFineSharedBytes(g.head_dim, per_head)},
                                      a));
  return LaunchShares(r, kept, g.chunk_tokens, r.stride, /*count=*/true);
}

absl::Status SketchSelector::LaunchTake(const Range& r, uint64_t* masks) {
  const KvGeometry& g = geometry_;
  const uint32_t heads = g.kv_heads / r.groups;
  const RouteGroups groups = {buffers_.shares, buffers_.counts, buffers_.part_counts, r.most, g.chunk_tokens,
                              static_cast<uint32_t>(r.stride), heads, r.wanted, r.least};
  const LaunchShape shape = {Blocks(r.most, kRoutePartChunks) * heads, r.groups, kRouteRowThreads,
                             sizeof(RouteCutShared)};
  for (uint32_t digit = 1; digit < kRouteDigits; ++digit) {
    HGA_RETURN_IF_ERROR(device_->Launch(DeviceStream::kRoute, shape, RouteCountArgs{groups, digit}));
  }
  return device_->Launch(DeviceStream::kRoute, shape, RouteTakeArgs{groups, masks});
}

void SketchSelector::Finish(uint32_t number, const RouteBlock& block, std::vector<HeadSelection>* heads) const {
  const KvGeometry& g = geometry_;
  heads->resize(g.kv_heads);
  for (HeadSelection& head : *heads) head.clear();
  if (!NeedsDevice(block)) {
    const bool everything = !block.empty(g) && block.budget_keys[0] > 0;
    for (HeadSelection& head : *heads) {
      if (everything) SelectAll(g, block, &head);
    }
    return;
  }
  const uint32_t first = block.first_chunk(g), most = most_[number];
  const bool all = most == block.route_upto - first;
  const Answer a =
      AnswerAt(const_cast<uint8_t*>(out_.as()) + number * DeviceBytes(OutBytes(g, MostKept(chunks_))), most);
  for (uint32_t h = 0; h < g.kv_heads; ++h) {
    for (uint32_t i = 0, kept = all ? most : a.count[h]; i < kept; ++i) {
      const uint64_t mask = a.masks[size_t{h} * most + i];
      if (mask != 0) (*heads)[h].push_back({first + (all ? i : a.chunks[size_t{h} * most + i]), 0, mask});
    }
  }
}

}  // namespace hga
