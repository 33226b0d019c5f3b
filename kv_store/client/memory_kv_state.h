// What MemoryKvClient knows: slots and their holds, chunks by content, sessions and what they refer to.
#ifndef HGA_KV_STORE_CLIENT_MEMORY_KV_STATE_H_
#define HGA_KV_STORE_CLIENT_MEMORY_KV_STATE_H_

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/kv/block_parts.h"
#include "kv_store/client/memory_kv_client.h"

namespace hga {

// Methods are called with `mu` held, but Release, which takes it.
struct MemoryKvClient::State {
  struct Slot {
    std::vector<uint8_t> data;
    uint32_t holds = 0;
    bool reserved = false;  // not committed yet
    bool orphan = false;    // its chunk is gone
    bool dropped = false;   // the next fetch says kDisk
  };
  struct Chunk {
    ChunkHash parent;
    std::vector<uint32_t> token_ids, slots;
    std::string method, summary;
    uint32_t refs = 0;
    bool damaged = false;
  };
  struct Session {
    ModelFingerprint model;
    uint64_t epoch = 0;
    bool named = false, open = false, pinned = false;
    std::vector<ChunkHash> chunks;
    std::vector<uint32_t> tail;
    std::set<ChunkHash> pins;
    int64_t last_used = 0;
  };

  State(const KvGeometry& g, uint32_t limit) : geometry(g), slot_limit(limit) {}

  const KvGeometry geometry;
  const uint32_t slot_limit;
  std::mutex mu;
  // Guarded by mu.
  std::map<uint32_t, Slot> slots;
  std::map<ChunkHash, Chunk> chunks;
  std::map<std::string, Session> sessions;
  std::deque<absl::Status> failures;
  uint32_t next_slot = 0, in_use = 0, reclaim = 0;
  uint64_t next_nameless = 1, rpcs = 0;
  bool is_connected = true;
  std::shared_ptr<const std::function<void(absl::Span<const BlockHeads>)>> before_fetch;

  // Counts the call; the failure that a test has set up, if any.
  absl::Status Enter() {
    ++rpcs;
    if (!is_connected) return absl::UnavailableError("kv_store is gone");
    if (failures.empty()) return absl::OkStatus();
    const absl::Status status = failures.front();
    failures.pop_front();
    return status;
  }
  void Hold(uint32_t slot) {
    if (slots[slot].holds++ == 0) ++in_use;
  }
  void Release(uint32_t number) {
    std::lock_guard<std::mutex> lock(mu);
    const auto slot = slots.find(number);
    if (slot == slots.end() || slot->second.holds == 0 || --slot->second.holds > 0) return;
    --in_use;
    if (slot->second.reserved || slot->second.orphan) slots.erase(slot);
  }
  void Orphan(uint32_t number) {
    const auto slot = slots.find(number);
    slot->second.orphan = true;
    if (slot->second.holds == 0) slots.erase(slot);
  }
  // A slot that is gone with its hold, with these heads of the block and rubbish for the others.
  uint32_t CopyHeads(const Slot& slot, uint64_t heads) {
    const uint32_t number = next_slot++;
    Slot& copy = slots[number];
    copy.orphan = true;
    copy.data.assign(slot.data.size(), 0xff);
    hga::CopyHeads(geometry, heads, slot.data.data(), copy.data.data());
    return number;
  }
  void Unref(const ChunkHash& hash) {
    const auto chunk = chunks.find(hash);
    if (--chunk->second.refs > 0) return;
    for (uint32_t slot : chunk->second.slots) Orphan(slot);
    chunks.erase(chunk);
  }
  const Chunk* Whole(const ChunkHash& hash) const {
    const auto chunk = chunks.find(hash);
    return chunk == chunks.end() || chunk->second.slots.empty() ? nullptr : &chunk->second;
  }
  // Where there is none, holds are asked back.
  bool RoomFor(uint32_t count) {
    if (slot_limit == 0 || in_use + count <= slot_limit) return true;
    reclaim = std::max(reclaim, count);
    return false;
  }
  absl::StatusOr<Session*> Open(const OpenedSession& session) {
    const auto found = sessions.find(session.session_id);
    if (found == sessions.end() || !found->second.open || found->second.epoch != session.epoch) {
      return absl::FailedPreconditionError(
          absl::StrCat("session '", session.session_id, "' is not open with this epoch; open it again"));
    }
    return &found->second;
  }
  void Erase(const std::string& id) {
    for (const ChunkHash& chunk : sessions[id].chunks) Unref(chunk);
    sessions.erase(id);
  }
  void Close(const std::string& id) {
    Session& session = sessions[id];
    session.open = false;
    const auto pins = std::move(session.pins);
    session.pins.clear();
    for (const ChunkHash& chunk : pins) Unref(chunk);
    if (!session.named || (session.chunks.empty() && session.tail.empty())) Erase(id);
  }
  void Pin(Session* session, const ChunkHash& hash) {
    if (session->pins.insert(hash).second) ++chunks[hash].refs;
  }
};

}  // namespace hga

#endif  // HGA_KV_STORE_CLIENT_MEMORY_KV_STATE_H_
