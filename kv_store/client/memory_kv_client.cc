#include "kv_store/client/memory_kv_client.h"

#include <ctime>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {

struct MemoryKvClient::State {
  struct Slot {
    std::vector<bf16> data;
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
  bool RoomFor(uint32_t count) const { return slot_limit == 0 || in_use + count <= slot_limit; }
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

MemoryKvClient::MemoryKvClient(const KvGeometry& geometry, uint32_t slot_limit)
    : state_(std::make_shared<State>(geometry, slot_limit)),
      releaser_(std::make_shared<const HeldBlock::Releaser>(
          [state = state_](uint32_t slot) { state->Release(slot); })) {}

MemoryKvClient::~MemoryKvClient() = default;

absl::StatusOr<OpenedSession> MemoryKvClient::OpenSession(const std::string& name,
                                                          const ModelFingerprint& model,
                                                          absl::Span<const ChunkHash> chunks) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  if (!name.empty()) HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  const std::string id = name.empty() ? absl::StrCat("~", state_->next_nameless++) : name;
  if (const auto found = state_->sessions.find(id); found != state_->sessions.end()) {
    if (found->second.open) {
      return absl::FailedPreconditionError(absl::StrCat("session '", name, "' is in use by another request"));
    }
    if (found->second.model != model) {
      return absl::FailedPreconditionError(absl::StrCat("session '", name, "' was written by another model"));
    }
  }
  State::Session& session = state_->sessions[id];
  session.model = model;
  session.named = !name.empty();
  session.open = true;
  session.last_used = std::time(nullptr);
  OpenedSession opened{id, ++session.epoch, 0, 0};
  bool in_ram = true;
  for (const ChunkHash& hash : chunks) {
    const State::Chunk* chunk = state_->Whole(hash);
    if (chunk == nullptr) break;
    state_->Pin(&session, hash);
    ++opened.matched_chunks;
    for (uint32_t slot : chunk->slots) in_ram = in_ram && !state_->slots[slot].dropped;
    opened.matched_in_ram += in_ram;
  }
  return opened;
}

absl::Status MemoryKvClient::UpdateSession(const OpenedSession& opened, absl::Span<const ChunkHash> chunks,
                                           absl::Span<const uint32_t> tail_tokens) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_ASSIGN_OR_RETURN(State::Session * session, state_->Open(opened));
  if (tail_tokens.size() >= state_->geometry.chunk_tokens) {
    return absl::InvalidArgumentError("UpdateSession: the tail must be shorter than a chunk");
  }
  ChunkHash previous = SeedHash(session->model, state_->geometry);
  for (const ChunkHash& hash : chunks) {
    const State::Chunk* chunk = state_->Whole(hash);
    if (chunk == nullptr) return absl::FailedPreconditionError("UpdateSession: a chunk is not in the store");
    if (chunk->parent != previous) {
      return absl::InvalidArgumentError("UpdateSession: a chunk does not follow its predecessor");
    }
    previous = hash;
  }
  for (const ChunkHash& hash : chunks) ++state_->chunks[hash].refs;
  for (const ChunkHash& hash : session->chunks) state_->Unref(hash);
  session->chunks.assign(chunks.begin(), chunks.end());
  session->tail.assign(tail_tokens.begin(), tail_tokens.end());
  session->last_used = std::time(nullptr);
  return absl::OkStatus();
}

absl::Status MemoryKvClient::CloseSession(const OpenedSession& opened) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_RETURN_IF_ERROR(state_->Open(opened).status());
  state_->Close(opened.session_id);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint32_t>> MemoryKvClient::GetSession(const std::string& name,
                                                                 const ModelFingerprint& model) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  const auto found = state_->sessions.find(name);
  if (found == state_->sessions.end() || (found->second.chunks.empty() && found->second.tail.empty())) {
    return absl::NotFoundError(absl::StrCat("no session '", name, "'"));
  }
  if (found->second.model != model) {
    return absl::FailedPreconditionError(absl::StrCat("session '", name, "' was written by another model"));
  }
  std::vector<uint32_t> tokens;
  for (const ChunkHash& hash : found->second.chunks) {
    const auto& ids = state_->chunks[hash].token_ids;
    tokens.insert(tokens.end(), ids.begin(), ids.end());
  }
  tokens.insert(tokens.end(), found->second.tail.begin(), found->second.tail.end());
  return tokens;
}

absl::StatusOr<std::vector<SessionSummary>> MemoryKvClient::ListSessions() {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  std::vector<SessionSummary> list;
  for (const auto& [name, s] : state_->sessions) {
    if (!s.named) continue;
    const uint32_t chunks = static_cast<uint32_t>(s.chunks.size());
    list.push_back({name, uint64_t{chunks} * state_->geometry.chunk_tokens + s.tail.size(),
                    chunks * state_->geometry.block_bytes() * state_->geometry.layers, chunks, chunks,
                    s.last_used, s.open, s.pinned});
  }
  return list;
}

absl::Status MemoryKvClient::DeleteSession(const std::string& name) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  const auto found = state_->sessions.find(name);
  if (found == state_->sessions.end()) return absl::NotFoundError(absl::StrCat("no session '", name, "'"));
  if (found->second.open) {
    return absl::FailedPreconditionError(absl::StrCat("session '", name, "' is in use by another request"));
  }
  state_->Erase(name);
  return absl::OkStatus();
}

absl::Status MemoryKvClient::ForkSession(const std::string& from, const std::string& to) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_RETURN_IF_ERROR(ValidateSessionName(from));
  HGA_RETURN_IF_ERROR(ValidateSessionName(to));
  const auto source = state_->sessions.find(from);
  if (source == state_->sessions.end() || (source->second.chunks.empty() && source->second.tail.empty())) {
    return absl::NotFoundError(absl::StrCat("no session '", from, "'"));
  }
  if (state_->sessions.count(to) > 0) return absl::AlreadyExistsError(absl::StrCat("there is a session '", to, "'"));
  State::Session fork = source->second;
  fork.open = fork.pinned = false;
  fork.pins.clear();
  fork.last_used = std::time(nullptr);
  for (const ChunkHash& chunk : fork.chunks) ++state_->chunks[chunk].refs;
  state_->sessions[to] = std::move(fork);
  return absl::OkStatus();
}

absl::Status MemoryKvClient::PinSession(const std::string& name, bool pinned) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  const auto found = state_->sessions.find(name);
  if (found == state_->sessions.end()) return absl::NotFoundError(absl::StrCat("no session '", name, "'"));
  found->second.pinned = pinned;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<HeldBlock>> MemoryKvClient::Reserve(uint32_t count) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  if (count == 0 || count > 4096) return absl::InvalidArgumentError("Reserve: 1 to 4096 slots");
  if (!state_->RoomFor(count)) {
    return absl::ResourceExhaustedError(
        absl::StrCat(count, " slots wanted, ", state_->in_use, " in use of ", state_->slot_limit));
  }
  std::vector<HeldBlock> blocks;
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t number = state_->next_slot++;
    State::Slot& slot = state_->slots[number];
    slot.data.resize(state_->geometry.block_elements());
    slot.reserved = true;
    state_->Hold(number);
    blocks.emplace_back(slot.data.data(), number, releaser_);
  }
  return blocks;
}

absl::StatusOr<std::vector<HeldBlock>> MemoryKvClient::Commit(const OpenedSession& opened, CommitChunk in) {
  // `in` dies after the lock is given up: its holds release through the same lock.
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_ASSIGN_OR_RETURN(State::Session * session, state_->Open(opened));
  const KvGeometry& g = state_->geometry;
  if (in.token_ids.size() != g.chunk_tokens || in.blocks.size() != g.layers) {
    return absl::InvalidArgumentError("Commit: needs chunk_tokens token ids and one block per layer");
  }
  if (NextChunkHash(in.parent, in.token_ids) != in.hash) {
    return absl::InvalidArgumentError(
        "Commit: the chunk hash does not follow from the parent and the token ids");
  }
  for (const HeldBlock& block : in.blocks) {
    const auto slot = state_->slots.find(block.slot());
    if (!block || slot == state_->slots.end() || !slot->second.reserved) {
      return absl::InvalidArgumentError("Commit: a block is not reserved");
    }
  }
  std::vector<HeldBlock> held;
  if (const State::Chunk* existing = state_->Whole(in.hash); existing != nullptr) {
    for (uint32_t number : existing->slots) {
      state_->Hold(number);
      held.emplace_back(state_->slots[number].data.data(), number, releaser_);
    }
    state_->Pin(session, in.hash);
    return held;  // the caller's copies are released with `in`
  }
  State::Chunk& chunk = state_->chunks[in.hash];
  chunk.parent = in.parent;
  chunk.token_ids = in.token_ids;
  chunk.method = in.summary_method;
  chunk.summary = in.summary;
  chunk.damaged = false;
  for (const HeldBlock& block : in.blocks) {
    state_->slots[block.slot()].reserved = false;
    chunk.slots.push_back(block.slot());
  }
  state_->Pin(session, in.hash);
  return std::move(in.blocks);
}

absl::StatusOr<std::vector<FetchedBlock>> MemoryKvClient::Fetch(absl::Span<const BlockName> names) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  std::vector<FetchedBlock> out(names.size());
  for (size_t i = 0; i < names.size(); ++i) {
    const State::Chunk* chunk = state_->Whole(names[i].chunk);
    if (chunk == nullptr || names[i].layer >= state_->geometry.layers) {
      out[i].status = absl::NotFoundError("no such block");
      continue;
    }
    if (chunk->damaged) {
      out[i].status = absl::DataLossError("the chunk has a bad checksum");
      State::Chunk& lost = state_->chunks[names[i].chunk];
      for (uint32_t slot : lost.slots) state_->Orphan(slot);
      lost.slots.clear();
      continue;
    }
    const uint32_t number = chunk->slots[names[i].layer];
    State::Slot& slot = state_->slots[number];
    if (slot.holds == 0 && !state_->RoomFor(1)) {
      out[i].status = absl::ResourceExhaustedError("every slot is held");
      continue;
    }
    out[i].found_in = slot.dropped ? FoundIn::kDisk : FoundIn::kRam;
    slot.dropped = false;
    state_->Hold(number);
    out[i].block = HeldBlock(slot.data.data(), number, releaser_);
  }
  return out;
}

absl::Status MemoryKvClient::GetSummaries(
    absl::Span<const ChunkHash> chunks,
    const std::function<void(const ChunkHash&, const std::string&, const std::string&)>& sink) {
  std::vector<std::pair<ChunkHash, State::Chunk>> found;
  {
    std::lock_guard<std::mutex> lock(state_->mu);
    HGA_RETURN_IF_ERROR(state_->Enter());
    for (const ChunkHash& hash : chunks) {
      const State::Chunk* chunk = state_->Whole(hash);
      if (chunk == nullptr) break;
      found.emplace_back(hash, *chunk);
    }
  }
  for (const auto& [hash, chunk] : found) sink(hash, chunk.method, chunk.summary);
  return absl::OkStatus();
}

absl::StatusOr<KvStoreStats> MemoryKvClient::GetStats() {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  KvStoreStats stats;
  stats.slots_total = state_->slot_limit;
  stats.slots_held = state_->in_use;
  stats.slots_free = state_->slot_limit > state_->in_use ? state_->slot_limit - state_->in_use : 0;
  stats.sessions = state_->sessions.size();
  stats.chunks = stats.chunks_durable = state_->chunks.size();
  return stats;
}

uint32_t MemoryKvClient::TakeReclaim() {
  std::lock_guard<std::mutex> lock(state_->mu);
  return std::exchange(state_->reclaim, 0);
}

uint64_t MemoryKvClient::rpc_count() const {
  std::lock_guard<std::mutex> lock(state_->mu);
  return state_->rpcs;
}

bool MemoryKvClient::connected() const {
  std::lock_guard<std::mutex> lock(state_->mu);
  return state_->is_connected;
}

void MemoryKvClient::DropRam() {
  std::lock_guard<std::mutex> lock(state_->mu);
  for (auto& [number, slot] : state_->slots) {
    if (slot.holds > 0) continue;
    std::vector<bf16> elsewhere(slot.data);
    slot.data.swap(elsewhere);
    slot.dropped = true;
  }
}

void MemoryKvClient::FailNext(absl::Status status) {
  std::lock_guard<std::mutex> lock(state_->mu);
  state_->failures.push_back(std::move(status));
}

void MemoryKvClient::DamageChunk(const ChunkHash& hash) {
  std::lock_guard<std::mutex> lock(state_->mu);
  const auto chunk = state_->chunks.find(hash);
  if (chunk != state_->chunks.end()) chunk->second.damaged = true;
}

void MemoryKvClient::SetConnected(bool connected) {
  std::lock_guard<std::mutex> lock(state_->mu);
  state_->is_connected = connected;
  if (connected) return;
  std::vector<std::string> open;
  for (const auto& [id, session] : state_->sessions) {
    if (session.open) open.push_back(id);
  }
  for (const std::string& id : open) state_->Close(id);
}

void MemoryKvClient::SetReclaim(uint32_t slots) {
  std::lock_guard<std::mutex> lock(state_->mu);
  state_->reclaim = slots;
}

}  // namespace hga
