// The write-back and restart part of BlockStore.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "kv_store/store/block_store.h"

namespace hga {

std::vector<ChunkHash> RejectDamaged(const KvGeometry& geometry, WriteStep* step) {
  std::vector<ChunkHash> rejected;
  auto damaged = [&](const ChunkWrite& chunk) {
    for (size_t layer = 0; layer < chunk.blocks.size(); ++layer) {
      if (BlockChecksum(chunk.blocks[layer], geometry.block_bytes()) != chunk.record->checksums[layer]) {
        rejected.push_back(chunk.record->hash);
        return true;
      }
    }
    return false;
  };
  auto& chunks = step->put_chunks;
  chunks.erase(std::remove_if(chunks.begin(), chunks.end(), damaged), chunks.end());
  return rejected;
}

bool BlockStore::HasPendingWrites() const {
  return write_under_way_ || chunks_dirty_ > 0 || !to_delete_.empty() || !to_drop_.empty() || !tokens_to_put_.empty() ||
         !sessions_to_put_.empty() || !sessions_to_delete_.empty();
}

std::optional<WriteJob> BlockStore::TakeWrite() {
  if (write_under_way_ || !HasPendingWrites()) return std::nullopt;
  const bool freed = KeepDiskBudget();
  WriteJob job;
  job.step.delete_chunks.assign(to_delete_.begin(), to_delete_.end());
  job.step.drop_blocks.assign(to_drop_.begin(), to_drop_.end());
  job.step.delete_sessions.assign(sessions_to_delete_.begin(), sessions_to_delete_.end());
  // Never a manifest before the token ids of its chunks.
  for (const ChunkHash& hash : tokens_to_put_) {
    Chunk* chunk = FindChunk(hash);
    if (chunk == nullptr || chunk->ram == nullptr || chunk->ram->record == nullptr) continue;  // the disk has them
    chunk->recorded = true;
    job.step.put_tokens.push_back({chunk->hash, chunk->parent, chunk->ram->record->token_ids, {}});
  }
  for (const std::string& name : sessions_to_put_)
    job.step.put_sessions.push_back(RecordOf(name, sessions_[name]));
  to_delete_.clear();
  to_drop_.clear();
  tokens_to_put_.clear();
  sessions_to_delete_.clear();
  sessions_to_put_.clear();
  on_saved_writing_ = std::exchange(on_saved_, {});
  // What frees room goes first, alone: a disk that was full may take it, and the rest after it.
  const bool frees_room =
      !job.step.delete_chunks.empty() || !job.step.drop_blocks.empty() || !job.step.delete_sessions.empty();
  if (!freed && (write_error_.ok() || !frees_room)) TakeDirty(&job);
  if (job.step.empty()) return std::nullopt;
  write_under_way_ = true;
  return job;
}

void BlockStore::TakeDirty(WriteJob* job) {
  while (!dirty_.empty() && job->bytes < options_.write_step_bytes) {
    const auto [hash, serial] = dirty_.front();
    dirty_.pop_front();
    Chunk* chunk = FindWhole(hash);
    if (chunk == nullptr || chunk->serial != serial) continue;  // dropped since it was queued
    ChunkWrite write{chunk->ram->record, chunk->ram->summary, {}};
    for (uint32_t slot : chunk->ram->slots) {
      slots_.Hold(slot);  // the bytes stay while they are written
      writing_slots_.push_back(slot);
      write.blocks.push_back(memory_(slot));
    }
    chunk->writing = true;
    writing_.emplace_back(hash, serial);
    job->bytes += geometry_.block_bytes() * geometry_.layers;
    job->step.put_chunks.push_back(std::move(write));
  }
}

void BlockStore::FinishWrite(const std::vector<ChunkHash>& rejected) {
  HGA_CHECK(write_under_way_);
  write_under_way_ = false;
  write_error_ = absl::OkStatus();
  for (const auto& [hash, serial] : std::exchange(writing_, {})) {
    Chunk* chunk = FindWhole(hash);
    if (chunk == nullptr || chunk->serial != serial) continue;
    if (std::find(rejected.begin(), rejected.end(), hash) != rejected.end()) {
      LogError("a chunk's bytes changed after it was committed, dropped", {{"chunk", hash.ToHex()}});
      MarkLost(chunk);
      continue;
    }
    chunk->durable = true;
    chunk->writing = false;
    ++chunks_durable_;
    --chunks_dirty_;
    ++counters_.chunks_written;
    counters_.bytes_written += geometry_.block_bytes() * geometry_.layers;
    chunk->ram->record.reset();
    chunk->ram->summary.reset();
    for (uint32_t slot : chunk->ram->slots) slots_.SetState(slot, SlotState::kClean);
    for (const auto& done : std::exchange(chunk->ram->on_durable, {})) done(absl::OkStatus());
  }
  for (uint32_t slot : std::exchange(writing_slots_, {})) slots_.Unhold(slot);
  for (const auto& done : std::exchange(on_saved_writing_, {})) done(absl::OkStatus());
}

void BlockStore::FailWrite(const WriteStep& step, absl::Status why) {
  HGA_CHECK(write_under_way_);
  write_under_way_ = false;
  write_error_ = std::move(why);
  to_delete_.insert(step.delete_chunks.begin(), step.delete_chunks.end());
  for (const ChunkHash& hash : step.drop_blocks) {
    if (FindChunk(hash) != nullptr) to_drop_.insert(hash);  // else it is to be deleted whole
  }
  for (const std::string& name : step.delete_sessions) Save(name);
  for (const ChunkRecord& record : step.put_tokens) tokens_to_put_.insert(record.hash);
  for (const SessionRecord& session : step.put_sessions) Save(session.name);
  const auto chunks = std::exchange(writing_, {});
  for (auto at = chunks.rbegin(); at != chunks.rend(); ++at) {
    Chunk* chunk = FindWhole(at->first);
    if (chunk == nullptr || chunk->serial != at->second) continue;
    chunk->writing = false;
    dirty_.push_front(*at);
  }
  for (uint32_t slot : std::exchange(writing_slots_, {})) slots_.Unhold(slot);
  on_saved_.insert(on_saved_.begin(), on_saved_writing_.begin(), on_saved_writing_.end());
  on_saved_writing_.clear();
}

uint64_t BlockStore::DropRam() {
  uint64_t dropped = 0;
  for (uint32_t slot = slots_.Victim(); slot != kNoSlot; slot = slots_.Victim()) {
    Evict(slot);
    ++dropped;
  }
  return dropped;
}

absl::Status BlockStore::Load(KvTier* tier) {
  const auto geometry = tier->GetGeometry();
  if (absl::IsNotFound(geometry.status())) return absl::OkStatus();
  HGA_RETURN_IF_ERROR(geometry.status());
  geometry_ = *geometry;
  HGA_RETURN_IF_ERROR(tier->ForEachChunk([this](Scanned<ChunkRecord> scanned) { LoadChunk(std::move(scanned)); }));
  uint64_t damaged_sessions = 0;
  HGA_RETURN_IF_ERROR(tier->ForEachSession([&](Scanned<SessionRecord> scanned) {
    if (scanned.record.ok() && ValidateSessionName(scanned.record->name).ok()) {
      return LoadSession(*std::move(scanned.record));
    }
    ++damaged_sessions;
    sessions_to_delete_.insert(scanned.key);
  }));
  counters_.damaged_records += damaged_sessions;
  CollectGarbage(damaged_sessions > 0);
  return absl::OkStatus();
}

void BlockStore::LoadChunk(Scanned<ChunkRecord> scanned) {
  const auto hash = ChunkHash::FromBytes(scanned.key);
  if (!hash.ok()) return;
  const bool whole = scanned.record.ok() && scanned.record->checksums.size() == geometry_.layers;
  const bool tokens_only = scanned.record.ok() && scanned.record->checksums.empty();
  if (!(whole || tokens_only) || scanned.record->token_ids.size() != geometry_.chunk_tokens ||
      scanned.record->hash != *hash) {
    ++counters_.damaged_records;
    to_delete_.insert(*hash);
    return;
  }
  auto chunk = std::make_unique<Chunk>();
  chunk->hash = *hash;
  chunk->parent = scanned.record->parent;
  chunk->serial = next_serial_++;
  chunk->recorded = true;
  chunk->lost = tokens_only;
  chunk->durable = whole;
  chunks_durable_ += whole;
  chunks_lost_ += tokens_only;
  chunks_.insert(std::move(chunk));
}

// Chunks of no session: a crash came between their write and their manifest's, or their session was dropped and
// the deletion was not written. `keep`: a manifest is damaged, so nobody knows whose they are.
void BlockStore::CollectGarbage(bool keep) {
  std::vector<Chunk*> garbage;
  uint64_t lost = 0;
  for (const auto& chunk : chunks_) {
    lost += chunk->lost && chunk->refs > 0;
    if (chunk->refs == 0 && (chunk->lost || !keep)) garbage.push_back(chunk.get());
  }
  for (Chunk* chunk : garbage) EraseChunk(chunk);
  counters_.garbage_chunks += garbage.size();
  LogInfo("restored", {{"sessions", sessions_.size()},
                       {"chunks", chunks_.size()},
                       {"chunks_to_compute", lost},
                       {"deleted_chunks", garbage.size()}});
  if (counters_.damaged_records > 0) {
    LogError("damaged records are deleted", {{"records", counters_.damaged_records},
                                             {"chunks_of_no_session", keep ? "kept until the next start" : "deleted"}});
  }
}

void BlockStore::LoadSession(SessionRecord record) {
  Session session;
  session.named = true;
  session.model = record.model;
  session.epoch = record.epoch;
  session.last_used_unix_s = record.last_used_unix_s;
  ChunkHash previous = SeedHash(record.model, geometry_);
  for (const ChunkHash& hash : record.chunks) {
    const Chunk* chunk = FindChunk(hash);
    if (chunk == nullptr || chunk->parent != previous) break;
    session.chunks.push_back(hash);
    previous = hash;
  }
  if (session.chunks.size() == record.chunks.size()) {
    session.tail_tokens = std::move(record.tail_tokens);
  } else {
    LogWarning("session cut back, the rest is damaged",
               {{"session", record.name}, {"chunks", session.chunks.size()}, {"of", record.chunks.size()}});
    sessions_to_put_.insert(record.name);
  }
  if (session.chunks.empty() && session.tail_tokens.empty()) {
    sessions_to_put_.erase(record.name);
    sessions_to_delete_.insert(record.name);
    return;
  }
  session.pin_requested = record.pinned;
  session.pinned = record.pinned || options_.pinned_sessions.contains(record.name);
  for (const ChunkHash& hash : session.chunks) {
    AddRef(hash);
    if (session.pinned) Pinned(hash, 1);
  }
  sessions_[record.name] = std::move(session);
}

}  // namespace hga
