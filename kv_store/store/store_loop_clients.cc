// The clients of a StoreLoop: who is attached, and when what a client held may be given to another.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "kv_store/ring/ring_file.h"
#include "kv_store/store/store_loop.h"

namespace hga {
namespace {

constexpr uint32_t kMaxTransfers = 16;  // of one client
constexpr std::chrono::seconds kArenaReports(5);

}  // namespace

absl::Status StoreLoop::PrepareArena(const KvGeometry& geometry) {
  HGA_RETURN_IF_ERROR(geometry.Validate());
  const bool replaceable = !arena_.has_value() && !store_.has_chunks() && !store_.HasPendingWrites();
  if (geometry_.has_value() && !(*geometry_ == geometry) && !replaceable) {
    return absl::FailedPreconditionError(absl::StrCat(
        "this store holds K/V of another shape (", geometry_->layers, " layers, ", geometry_->kv_heads,
        " KV heads of ", geometry_->head_dim, ", chunks of ", geometry_->chunk_tokens, ", ",
        KvDtypeName(geometry_->dtype), "; the client has ", geometry.layers, ", ", geometry.kv_heads, ", ",
        geometry.head_dim, ", ", geometry.chunk_tokens, ", ", KvDtypeName(geometry.dtype),
        "); start a kv_store with another --data_dir for this model"));
  }
  if (arena_.has_value()) return absl::OkStatus();
  ArenaShape shape;
  shape.generation = generation_;
  shape.slot_bytes = (geometry.block_bytes() + kSlotAlignment - 1) / kSlotAlignment * kSlotAlignment;
  const uint64_t count = options_.arena_bytes / shape.slot_bytes;
  if (count < geometry.layers) {
    return absl::FailedPreconditionError(absl::StrCat("--arena_bytes ", options_.arena_bytes,
                                                      " has room for ", count,
                                                      " blocks, one chunk alone needs ", geometry.layers));
  }
  shape.slot_count = static_cast<uint32_t>(std::min<uint64_t>(count, kMaxSlots));
  HGA_ASSIGN_OR_RETURN(Arena arena, MakeArena(shape));
  RemoveRingsOf(options_.arena_path);
  HGA_RETURN_IF_ERROR(tier_->SetGeometry(geometry));
  arena_ = std::move(arena);
  geometry_ = geometry;
  metrics_.SetArenaBytes(shape.slot_bytes * shape.slot_count);
  store_.SetSlots(geometry, shape.slot_count, [this](uint32_t slot) { return arena_->Slot(slot); });
  return absl::OkStatus();
}

absl::StatusOr<Arena> StoreLoop::MakeArena(const ArenaShape& shape) const {
  const auto begin = std::chrono::steady_clock::now();
  auto next_report = begin + kArenaReports;
  auto arena = Arena::Create(options_.arena_path, shape, [&](size_t done) {
    if (std::chrono::steady_clock::now() >= next_report) {
      LogInfo("making the arena", {{"done_bytes", done}, {"of", ArenaFileBytes(shape)}});
      next_report += kArenaReports;
    }
    return !refusing_clients_;
  });
  if (absl::IsCancelled(arena.status())) return absl::UnavailableError("the store is shutting down");
  if (!arena.ok()) return arena;
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  LogInfo("arena made", {{"path", options_.arena_path}, {"slots", shape.slot_count}, {"slot_bytes", shape.slot_bytes},
                         {"on_huge_pages", arena->huge_bytes()}, {"seconds", took.count()}});
  return arena;
}

absl::StatusOr<uint32_t> StoreLoop::TakeLockByte() {
  for (uint32_t i = 0; i < kMaxArenaClients; ++i) {
    const uint32_t byte = static_cast<uint32_t>(kLockBytesOffset) + i;
    if (used_lock_bytes_.insert(byte).second) return byte;
  }
  return absl::ResourceExhaustedError(absl::StrCat("already ", kMaxArenaClients, " clients are attached"));
}

absl::StatusOr<AttachedClient> StoreLoop::AttachOnStore(const std::optional<KvGeometry>& geometry, bool map_arena) {
  if (refusing_clients_) return absl::UnavailableError("the store is shutting down");
  AttachedClient client;
  ClientSeat seat;
  if (geometry.has_value()) {
    HGA_RETURN_IF_ERROR(PrepareArena(*geometry));
    seat.has_blocks = true;
  }
  if (geometry.has_value() && map_arena) {
    HGA_ASSIGN_OR_RETURN(client.lock_byte, TakeLockByte());
    seat.lock_byte = client.lock_byte;
    client.has_arena = true;
    client.arena_path = options_.arena_path;
    client.shape = arena_->shape();
  }
  client.id = next_client_++;
  client.mailbox = seat.mailbox = std::make_shared<Mailbox>();
  seats_[client.id] = std::move(seat);
  store_.AddClient(client.id);
  return client;
}

absl::StatusOr<AttachedClient> StoreLoop::Attach(const std::string& client_name,
                                                 const std::optional<KvGeometry>& geometry, bool map_arena) {
  auto client = OnStore([&] { return AttachOnStore(geometry, map_arena); });
  if (client.ok()) LogInfo("client attached", {{"name", client_name}, {"client", client->id}});
  return client;
}

void StoreLoop::Detach(ClientId id) {
  executor_->Run([&] {
    const auto seat = seats_.find(id);
    if (seat == seats_.end()) return;
    seat->second.quarantined = true;
    store_.QuarantineClient(id);
    PollQuarantine();
    Pump();
  });
  LogInfo("client left", {{"client", id}});
}

// Frees the slots of clients that have left and whose lock byte the kernel has released.
void StoreLoop::PollQuarantine() {
  std::vector<ClientId> gone;
  bool waiting = false;
  for (const auto& [id, seat] : seats_) {
    if (!seat.quarantined) continue;
    const bool mapped =
        seat.transfers > 0 || (seat.lock_byte.has_value() && arena_->LockedByOther(*seat.lock_byte));
    waiting = waiting || mapped;
    if (!mapped) gone.push_back(id);
  }
  for (ClientId id : gone) {
    store_.FreeClient(id);
    const auto seat = seats_.find(id);
    if (seat->second.lock_byte.has_value()) used_lock_bytes_.erase(*seat->second.lock_byte);
    seats_.erase(seat);
  }
  {
    std::lock_guard<std::mutex> lock(mu_);
    if (quarantine_ == waiting) return;
    quarantine_ = waiting;
  }
  stop_changed_.notify_all();
}

absl::StatusOr<std::unique_ptr<Transfer>> StoreLoop::BeginTransfer(ClientId client) {
  return OnStore([&]() -> absl::StatusOr<std::unique_ptr<Transfer>> {
    const auto seat = seats_.find(client);
    if (seat == seats_.end() || seat->second.quarantined || !seat->second.has_blocks) {
      return absl::FailedPreconditionError(
          absl::StrCat("client ", client, " is not attached with a geometry; attach again"));
    }
    if (seat->second.transfers >= kMaxTransfers) {
      return absl::ResourceExhaustedError(
          absl::StrCat("this client moves blocks in ", kMaxTransfers, " calls already"));
    }
    ++seat->second.transfers;
    return std::make_unique<Transfer>(this, client, *geometry_);
  });
}

void StoreLoop::EndTransfer(ClientId client) {
  executor_->Run([&] {
    const auto seat = seats_.find(client);
    if (seat == seats_.end()) return;
    --seat->second.transfers;
    PollQuarantine();
    Pump();
  });
}

Transfer::~Transfer() { loop_->EndTransfer(client_); }

uint8_t* Transfer::Slot(uint32_t slot) const { return loop_->arena_->Slot(slot); }

void StoreLoop::StopClients() {
  refusing_clients_ = true;
  executor_->Run([&] {
    for (const auto& [id, seat] : seats_) seat.mailbox->Close();
  });
}

}  // namespace hga
