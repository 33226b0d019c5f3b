#include "gpu_worker/backend/cuda/cuda_attention.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"
#include "gpu_worker/backend/cuda/shared_history.h"

namespace hga {
namespace {

static_assert(kInt8Channels == kScaledChannels);

// Units that one Prefetch brings at most.
constexpr uint32_t kPrefetchEntries = 4096;

size_t BytesOfDescriptors(const AttendBatchLimits& b) {
  return b.runs * (sizeof(DeviceRun) + sizeof(GatherEntry)) + b.items * (3 * sizeof(AttendItem) + sizeof(MergeItem)) +
         6 * 16;
}

// Most that `pieces` pieces of together so many tokens take of the window.
size_t MostBytes(const KvGeometry& g, uint32_t tokens, uint32_t pieces) {
  return 2 * (size_t{tokens} * g.head_dim * sizeof(bf16) + 16 * size_t{pieces});
}

uint32_t ShiftOf(uint32_t power_of_two) {
  uint32_t shift = 0;
  while (power_of_two >> (shift + 1) != 0) ++shift;
  return shift;
}

DeviceTierOptions TierOptions(const KvGeometry& g, const CudaAttentionOptions& o) {
  DeviceTierOptions tier;
  const uint64_t slot = uint64_t{o.tier_unit_tokens} * g.head_dim * 2 * sizeof(bf16);
  tier.slots = static_cast<uint32_t>(std::min<uint64_t>(o.tier_bytes / slot, DeviceTier::kNoSlot - 1));
  tier.layers = g.layers;
  tier.units_per_block = g.kv_heads * (g.chunk_tokens / o.tier_unit_tokens);
  return tier;
}

}  // namespace

CudaAttention::CudaAttention(Device* device, const KvGeometry& geometry, const CudaAttentionOptions& options)
    : device_(device), geometry_(geometry), options_(options), int8_(geometry.dtype == KvDtype::kInt8),
      row_bytes_(geometry.row_bytes()),
      slot_elements_(size_t{options.tier_unit_tokens} * geometry.head_dim * 2),
      unit_shift_(ShiftOf(options.tier_unit_tokens)), head_units_(geometry.chunk_tokens >> unit_shift_),
      tier_(TierOptions(geometry, options)), list_(geometry, options.batch), taken_rows_(options.max_rows) {}

uint64_t CudaAttention::WindowBytes(const KvGeometry& geometry, const CudaAttentionOptions& options) {
  return 2 * (DeviceBytes(BytesOfDescriptors(options.batch)) + DeviceBytes(options.window_bytes)) +
         DeviceBytes(kPrefetchEntries * sizeof(GatherEntry));
}

uint64_t CudaAttention::TierBytes(const KvGeometry& geometry, const CudaAttentionOptions& options) {
  const uint64_t slot = uint64_t{options.tier_unit_tokens} * geometry.head_dim * 2 * sizeof(bf16);
  return DeviceBytes(TierOptions(geometry, options).slots * slot);
}

absl::StatusOr<std::unique_ptr<CudaAttention>> CudaAttention::Create(Device* device, DeviceMemory* memory,
                                                                     const KvGeometry& geometry,
                                                                     const CudaAttentionOptions& options) {
  const uint32_t unit = options.tier_unit_tokens;
  if (unit == 0 || (unit & (unit - 1)) != 0 || geometry.group_tokens % unit != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a unit of the device tier of ", unit,
                                                   " tokens; it must be a power of two that divides a group of ",
                                                   geometry.group_tokens));
  }
  if (geometry.head_dim > kFewHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat("cuda backend: heads of ", geometry.head_dim, " elements, at most ",
                                                   kFewHeadDim, " work"));
  }
  if (options.window_bytes < MostBytes(geometry, geometry.group_tokens, geometry.group_tokens) ||
      options.batch.runs < 2 * geometry.group_tokens) {
    return absl::InvalidArgumentError("the window has no room for one group");
  }
  std::unique_ptr<CudaAttention> attention(new CudaAttention(device, geometry, options));
  HGA_RETURN_IF_ERROR(attention->Allocate(memory));
  HGA_RETURN_IF_ERROR(attention->BeginBatch());
  return attention;
}

absl::Status CudaAttention::Allocate(DeviceMemory* memory) {
  for (Launch& launch : launches_) {
    HGA_ASSIGN_OR_RETURN(launch.descriptors, PinnedBuffer::Allocate(device_, BytesOfDescriptors(options_.batch)));
    // Of a piece, its whole unit may be brought.
    HGA_ASSIGN_OR_RETURN(launch.staging,
                         PinnedBuffer::Allocate(device_, options_.window_bytes * options_.tier_unit_tokens));
    HGA_ASSIGN_OR_RETURN(launch.on_device, memory->Allocate(DeviceUse::kWindow, BytesOfDescriptors(options_.batch)));
    HGA_ASSIGN_OR_RETURN(launch.window, memory->Allocate(DeviceUse::kWindow, options_.window_bytes));
    HGA_ASSIGN_OR_RETURN(launch.ready, device_->NewEvent());
    HGA_ASSIGN_OR_RETURN(launch.done, device_->NewEvent());
  }
  const size_t prefetch_bytes = kPrefetchEntries * sizeof(GatherEntry);
  HGA_ASSIGN_OR_RETURN(prefetch_.descriptors, PinnedBuffer::Allocate(device_, prefetch_bytes));
  HGA_ASSIGN_OR_RETURN(prefetch_.on_device, memory->Allocate(DeviceUse::kWindow, prefetch_bytes));
  HGA_ASSIGN_OR_RETURN(prefetch_.done, device_->NewEvent());
  HGA_ASSIGN_OR_RETURN(tier_memory_, memory->Allocate(DeviceUse::kTier, TierBytes(geometry_, options_)));
  return absl::OkStatus();
}

// Waits until the launch before the last has been done: its buffers are used again, and what it read of the tier may be
// overwritten.
absl::Status CudaAttention::BeginBatch() {
  HGA_RETURN_IF_ERROR(device_->Synchronize(launches_[batch_ % 2].done));
  list_.Clear();
  entries_.clear();
  in_window_.clear();
  std::fill(taken_rows_.begin(), taken_rows_.end(), false);
  room_used_ = window_used_ = staging_used_ = 0;
  return absl::OkStatus();
}

void CudaAttention::SetOwnRows(absl::Span<const KvRow> rows, const bf16* kv) {
  own_.clear();
  own_kv_ = kv;
  own_count_ = static_cast<uint32_t>(rows.size());
  for (uint32_t r = 0; r < rows.size(); ++r) {
    const bool follows = !own_.empty() && own_.back().block == rows[r].block &&
                         own_.back().first_token + own_.back().tokens == rows[r].token_in_chunk;
    if (!follows) own_.push_back({static_cast<const uint8_t*>(rows[r].block), rows[r].token_in_chunk, 0, r});
    ++own_.back().tokens;
  }
}

const CudaAttention::OwnRows* CudaAttention::FindOwn(const void* k) const {
  for (const OwnRows& own : own_) {
    if (k >= own.block && k < own.block + geometry_.block_bytes()) return &own;
  }
  return nullptr;
}

// A row's states are one block's in a launch.
absl::Status CudaAttention::StartBlock(const QueryBlock& block, const Workspace& w) {
  const auto first = taken_rows_.begin() + block.first_row;
  if (std::find(first, first + block.rows, true) != first + block.rows) HGA_RETURN_IF_ERROR(Submit(w));
  std::fill_n(first, block.rows, true);
  return absl::OkStatus();
}

absl::Status CudaAttention::Attend(uint32_t layer, const AttendPlan& plan, const Workspace& w) {
  mapped_ = MappedMemory();
  absl::Span<const QueryBlock> left = plan.blocks;
  while (!left.empty()) {
    const SharedHistory shared = FindSharedHistory(geometry_, left);
    const absl::Span<const QueryBlock> blocks = left.first(shared.blocks);
    HGA_ASSIGN_OR_RETURN(const uint32_t done, AttendShared(blocks, shared.runs, plan.sum_values, w));
    for (const QueryBlock& block : blocks) {
      HGA_RETURN_IF_ERROR(StartBlock(block, w));
      for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
        HGA_RETURN_IF_ERROR(AttendList(layer, block, head, done, plan.sum_values, w));
      }
    }
    left.remove_prefix(shared.blocks);
  }
  return list_.empty() ? absl::OkStatus() : Submit(w);
}

uint32_t CudaAttention::SliceRuns(absl::Span<const QueryBlock> blocks, uint32_t first, uint32_t runs) const {
  const uint32_t most = std::min(runs - first, list_.RoomToShare(blocks) / geometry_.kv_heads);
  uint64_t bytes = 0;
  uint32_t end = first;
  for (; end < first + most; ++end) {
    for (const std::vector<KvRun>& of_head : blocks[0].runs) bytes += MostBytes(geometry_, of_head[end].tokens, 1);
    if (bytes > options_.window_bytes) break;
  }
  return end - first;
}

absl::StatusOr<uint32_t> CudaAttention::AttendShared(absl::Span<const QueryBlock> blocks, uint32_t runs,
                                                     bool sum_values, const Workspace& w) {
  if (runs > 0 && !list_.empty()) HGA_RETURN_IF_ERROR(Submit(w));
  uint32_t first = 0;
  while (first < runs) {
    const uint32_t count = SliceRuns(blocks, first, runs);
    if (count == 0) break;
    for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
      for (uint32_t i = first; i < first + count; ++i) AddShared(blocks[0].runs[head][i]);
      list_.EndSharedList(blocks, head, sum_values);
    }
    HGA_RETURN_IF_ERROR(Submit(w));
    first += count;
  }
  return first;
}

void CudaAttention::AddShared(const KvRun& run) {
  const InWindow there = BringToWindow(Keys(run), Values(run), run.tokens);
  list_.Add(there.k, there.v, run.position, run.tokens, 0);
}

// A division for each run is all that is afforded: there are a hundred thousand of them in a token. All of a list's
// look-ups are announced before the first is made: each would wait for memory.
void CudaAttention::PlaceRuns(uint32_t layer, const QueryBlock& block, uint32_t kv_head, uint32_t first_run) {
  const std::vector<KvRun>& runs = block.runs[kv_head];
  places_.resize(runs.size());
  uint32_t chunk = UINT32_MAX, number = 0;
  for (size_t i = first_run; i < runs.size(); ++i) {
    const uint32_t now = runs[i].position / geometry_.chunk_tokens;
    const bool kept = TierKeeps(block, now);
    if (now != chunk && kept) {
      number = tier_.FindChunk(block.finished[chunk = now], now);
      tier_.PrepareUse(number, layer, kv_head * head_units_);
    }
    const uint32_t first = runs[i].position - now * geometry_.chunk_tokens;
    places_[i] = {number, first, kv_head * head_units_ + (first >> unit_shift_), kept};
  }
}

absl::Status CudaAttention::AttendList(uint32_t layer, const QueryBlock& block, uint32_t kv_head, uint32_t first_run,
                                       bool sum_values, const Workspace& w) {
  const std::vector<KvRun>& runs = block.runs[kv_head];
  const bool in_place = options_.in_place && block.rows == 1;
  bool placed = false;
  for (uint32_t i = first_run; i < runs.size(); ++i) {
    if (in_place) i += AddInPlace(block, absl::MakeConstSpan(runs).subspan(i));
    if (i == runs.size()) break;
    if (!placed) PlaceRuns(layer, block, kv_head, i);
    placed = true;
    if (AddRun(layer, block, kv_head, runs[i], places_[i])) continue;
    list_.EndList(block, kv_head, sum_values);
    HGA_RETURN_IF_ERROR(Submit(w));
    HGA_RETURN_IF_ERROR(StartBlock(block, w));
    if (!AddRun(layer, block, kv_head, runs[i], places_[i])) {
      return absl::InternalError("cuda backend: no room for one run");
    }
  }
  list_.EndList(block, kv_head, sum_values);
  return absl::OkStatus();
}

bool CudaAttention::AddRun(uint32_t layer, const QueryBlock& block, uint32_t kv_head, const KvRun& run,
                           const RunPlace& place) {
  const uint32_t end = place.first + run.tokens;
  const uint32_t units = ((end - 1) >> unit_shift_) - (place.first >> unit_shift_) + 1;
  const uint32_t pieces = place.kept ? units : 2;
  const size_t bytes = MostBytes(geometry_, run.tokens, pieces);
  if (list_.RoomOf(block) < pieces || room_used_ + bytes > options_.window_bytes) return false;
  room_used_ += bytes;
  Piece piece{Keys(run), Values(run), run.position, run.tokens, run.first_row};
  if (!place.kept) {
    AddUnfinished(kv_head, piece);
    return true;
  }
  const uint32_t unit_tokens = 1u << unit_shift_;
  for (uint32_t at = place.first, i = 0; i < units; ++i) {
    piece.tokens = std::min((at | (unit_tokens - 1)) + 1, end) - at;
    AddToTier(layer, place.chunk, place.unit + i, piece);
    at += piece.tokens;
    piece.position += piece.tokens;
    piece.k += RowsBytes(piece.tokens);
    piece.v += RowsBytes(piece.tokens);
  }
  return true;
}

// What a step's rows write themselves lies in chunks that are not finished.
uint32_t CudaAttention::AddInPlace(const QueryBlock& block, absl::Span<const KvRun> runs) {
  const uint64_t finished = uint64_t{block.finished.size()} * geometry_.chunk_tokens;
  const size_t most = std::min<size_t>(runs.size(), list_.RoomOf(block));
  uint64_t tokens = 0;
  size_t i = 0;
  for (; i < most; ++i) {
    const KvRun& run = runs[i];
    if (run.position >= finished && FindOwn(run.k) != nullptr) break;
    const size_t bytes = RowsBytes(run.tokens);
    const auto *k = static_cast<const uint8_t*>(Mapped(run.k, bytes));
    const auto *v = int8_ ? k : static_cast<const uint8_t*>(Mapped(run.v, bytes));
    if (k == nullptr || v == nullptr) break;
    if (int8_) {
      const size_t in_window = MostBytes(geometry_, run.tokens, 1);
      if (room_used_ + in_window > options_.window_bytes) break;
      room_used_ += in_window;
      const InWindow there = PlaceInWindow(run.tokens);
      entries_.push_back({k, v, there.k, there.v, run.tokens, 0});
      list_.Add(there.k, there.v, run.position, run.tokens, run.first_row);
    } else {
      list_.Add(reinterpret_cast<const bf16*>(k), reinterpret_cast<const bf16*>(v), run.position, run.tokens,
                run.first_row);
    }
    tokens += run.tokens;
  }
  use_.fetched_bytes += BusBytes(tokens);
  return static_cast<uint32_t>(i);
}

const uint8_t* CudaAttention::Source(const uint8_t* memory, size_t bytes) {
  if (const void* mapped = Mapped(memory, bytes); mapped != nullptr) return static_cast<const uint8_t*>(mapped);
  uint8_t* to = launches_[batch_ % 2].staging.as() + staging_used_;
  std::memcpy(to, memory, bytes);
  staging_used_ = RoundUp16(staging_used_ + bytes);
  return static_cast<const uint8_t*>(device_->Mapped(to, bytes));
}

std::pair<const uint8_t*, const uint8_t*> CudaAttention::Sources(const uint8_t* k, const uint8_t* v,
                                                                 uint32_t tokens) {
  const uint8_t* const keys = Source(k, RowsBytes(tokens));
  return {keys, int8_ ? keys : Source(v, RowsBytes(tokens))};
}

GatherEntry CudaAttention::UnitEntry(const uint8_t* k, const uint8_t* v, uint32_t slot) const {
  bf16* keys = tier_memory_.as<bf16>() + slot * slot_elements_;
  return {k, v, keys, keys + slot_elements_ / 2, options_.tier_unit_tokens, 0};
}

void CudaAttention::AddToTier(uint32_t layer, uint32_t chunk, uint32_t unit, const Piece& piece) {
  const DeviceTier::Place place = tier_.Use(chunk, layer, unit);
  if (place.slot == DeviceTier::kNoSlot) return AddToWindow(piece);
  const bf16* keys = tier_memory_.as<bf16>() + place.slot * slot_elements_;
  const uint32_t token = piece.position & (options_.tier_unit_tokens - 1);
  const size_t in_unit = size_t{token} * geometry_.head_dim;
  if (place.hit) {
    use_.hit_bytes += BusBytes(piece.tokens);
  } else {  // the whole of it: a block that does not change any more has all of its tokens
    const auto [k, v] = Sources(piece.k - RowsBytes(token), piece.v - RowsBytes(token), options_.tier_unit_tokens);
    entries_.push_back(UnitEntry(k, v, place.slot));
    use_.fetched_bytes += BusBytes(options_.tier_unit_tokens);
  }
  list_.Add(keys + in_unit, keys + slot_elements_ / 2 + in_unit, piece.position, piece.tokens, piece.first_row);
}

void CudaAttention::AddUnfinished(uint32_t kv_head, const Piece& piece) {
  const OwnRows* own = FindOwn(piece.k);
  const uint32_t first = piece.position % geometry_.chunk_tokens;
  if (own == nullptr || first + piece.tokens <= own->first_token) return AddToWindow(piece);
  Piece before = piece;
  before.tokens = first < own->first_token ? own->first_token - first : 0;
  if (before.tokens > 0) AddToWindow(before);
  const size_t row = own->first_row + first + before.tokens - own->first_token;
  const bf16* k = own_kv_ + (size_t{2} * kv_head * own_count_ + row) * geometry_.head_dim;
  list_.Add(k, k + size_t{own_count_} * geometry_.head_dim, piece.position + before.tokens,
            piece.tokens - before.tokens, piece.first_row);
}

CudaAttention::InWindow CudaAttention::PlaceInWindow(uint32_t tokens) {
  const size_t bytes = RoundUp16(PieceBytes(tokens));
  uint8_t* to = launches_[batch_ % 2].window.as() + window_used_;
  window_used_ += 2 * bytes;
  return {reinterpret_cast<bf16*>(to), reinterpret_cast<bf16*>(to + bytes), tokens};
}

CudaAttention::InWindow CudaAttention::BringToWindow(const uint8_t* k, const uint8_t* v, uint32_t tokens) {
  const InWindow there = PlaceInWindow(tokens);
  const auto [keys, values] = Sources(k, v, tokens);
  entries_.push_back({keys, values, there.k, there.v, tokens, 0});
  use_.fetched_bytes += BusBytes(tokens);
  return there;
}

void CudaAttention::AddToWindow(const Piece& piece) {
  InWindow& there = in_window_[piece.k];
  if (there.tokens < piece.tokens) there = BringToWindow(piece.k, piece.v, piece.tokens);  // not there, or too little
  list_.Add(there.k, there.v, piece.position, piece.tokens, piece.first_row);
}

// False: there is room for no more.
bool CudaAttention::PrefetchRun(uint32_t layer, const QueryBlock& block, uint32_t kv_head, const KvRun& run) {
  const uint32_t chunk = run.position / geometry_.chunk_tokens, first = run.position - chunk * geometry_.chunk_tokens;
  if (!TierKeeps(block, chunk)) return true;
  const size_t bytes = RowsBytes(options_.tier_unit_tokens);
  for (uint32_t unit = first >> unit_shift_; unit <= (first + run.tokens - 1) >> unit_shift_; ++unit) {
    const ptrdiff_t offset =
        (static_cast<ptrdiff_t>(unit << unit_shift_) - first) * static_cast<ptrdiff_t>(row_bytes_);
    const void *k = Mapped(Keys(run) + offset, bytes), *v = int8_ ? k : Mapped(Values(run) + offset, bytes);
    if (k == nullptr || v == nullptr || entries_.size() == kPrefetchEntries) return false;
    const DeviceTier::Place place =
        tier_.Use(tier_.FindChunk(block.finished[chunk], chunk), layer, kv_head * head_units_ + unit);
    if (place.slot == DeviceTier::kNoSlot) return false;
    if (place.hit) continue;
    entries_.push_back(UnitEntry(static_cast<const uint8_t*>(k), static_cast<const uint8_t*>(v), place.slot));
    use_.fetched_bytes += BusBytes(options_.tier_unit_tokens);
  }
  return true;
}

absl::Status CudaAttention::Prefetch(uint32_t layer, const AttendPlan& plan) {
  HGA_RETURN_IF_ERROR(WaitForPrefetch());  // its buffers are used again
  mapped_ = MappedMemory();
  for (const QueryBlock& block : plan.blocks) {
    for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
      for (const KvRun& run : block.runs[head]) {
        if (!PrefetchRun(layer, block, head, run)) break;
      }
    }
  }
  if (entries_.empty()) return absl::OkStatus();
  std::memcpy(prefetch_.descriptors.as(), entries_.data(), entries_.size() * sizeof(GatherEntry));
  HGA_RETURN_IF_ERROR(device_->CopyToDevice(DeviceStream::kCopy, prefetch_.on_device.as(), prefetch_.descriptors.as(),
                                            entries_.size() * sizeof(GatherEntry)));
  HGA_RETURN_IF_ERROR(LaunchGather(prefetch_.on_device.as(), entries_.size()));
  entries_.clear();
  return device_->Record(prefetch_.done, DeviceStream::kCopy);
}

}  // namespace hga
