// The write-back and restart part of BlockStore.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "kv_store/store/block_store.h"

namespace hga {

bool BlockStore::HasPendingWrites() const {
  return write_under_way_ || chunks_dirty_ > 0 || !to_delete_.empty() || !sessions_to_put_.empty() ||
         !sessions_to_delete_.empty();
}

std::optional<WriteJob> BlockStore::TakeWrite() {
  if (write_under_way_ || !HasPendingWrites()) return std::nullopt;
  const bool freed = KeepDiskBudget();
  WriteJob job;
  job.step.delete_chunks.assign(to_delete_.begin(), to_delete_.end());
  job.step.delete_sessions.assign(sessions_to_delete_.begin(), sessions_to_delete_.end());
  for (const std::string& name : sessions_to_put_)
    job.step.put_sessions.push_back(RecordOf(name, sessions_[name]));
  to_delete_.clear();
  sessions_to_delete_.clear();
  sessions_to_put_.clear();
  // What frees room goes first, alone.
  while (!freed && !dirty_.empty() && job.bytes < options_.write_step_bytes) {
    const auto [hash, serial] = dirty_.front();
    dirty_.pop_front();
    Chunk* chunk = FindWhole(hash);
    if (chunk == nullptr || chunk->serial != serial) continue;  // dropped since it was queued
    ChunkWrite write{chunk->record, chunk->summary, {}};
    for (uint32_t slot : chunk->slots) {
      slots_.Hold(slot);  // the bytes stay while they are written
      writing_slots_.push_back(slot);
      write.blocks.push_back(memory_(slot));
    }
    chunk->writing = true;
    writing_.emplace_back(hash, serial);
    job.bytes += geometry_.block_bytes() * geometry_.layers;
    job.step.put_chunks.push_back(std::move(write));
  }
  if (job.step.empty()) return std::nullopt;
  write_under_way_ = true;
  return job;
}

void BlockStore::FinishWrite(const std::vector<ChunkHash>& rejected) {
  HGA_CHECK(write_under_way_);
  write_under_way_ = false;
  const auto written = std::move(writing_);
  writing_.clear();
  for (const auto& [hash, serial] : written) {
    Chunk* chunk = FindWhole(hash);
    if (chunk == nullptr || chunk->serial != serial) continue;
    if (std::find(rejected.begin(), rejected.end(), hash) != rejected.end()) {
      LogError("a chunk's bytes changed after it was committed, dropped", {{"chunk", hash.ToHex()}});
      MarkLost(chunk);
      if (chunk->refs == 0) EraseChunk(chunk);
      continue;
    }
    chunk->durable = true;
    chunk->writing = false;
    ++chunks_durable_;
    --chunks_dirty_;
    ++counters_.chunks_written;
    counters_.bytes_written += geometry_.block_bytes() * geometry_.layers;
    chunk->record.reset();
    chunk->summary.reset();
    for (uint32_t slot : chunk->slots) slots_.SetState(slot, SlotState::kClean);
    const auto waiting = std::move(chunk->on_durable);
    chunk->on_durable.clear();
    for (const auto& done : waiting) done(absl::OkStatus());
  }
  for (uint32_t slot : writing_slots_) slots_.Unhold(slot);
  writing_slots_.clear();
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
  HGA_RETURN_IF_ERROR(tier->ForEachChunk([this](ChunkRecord record) {
    if (record.token_ids.size() != geometry_.chunk_tokens || record.checksums.size() != geometry_.layers) {
      to_delete_.insert(record.hash);
      return;
    }
    auto chunk = std::make_unique<Chunk>();
    chunk->hash = record.hash;
    chunk->parent = record.parent;
    chunk->serial = next_serial_++;
    chunk->token_ids = std::move(record.token_ids);
    chunk->slots.assign(geometry_.layers, kNoSlot);
    chunk->durable = true;
    ++chunks_durable_;
    chunks_[record.hash] = std::move(chunk);
  }));
  HGA_RETURN_IF_ERROR(tier->ForEachSession([this](SessionRecord record) { LoadSession(std::move(record)); }));
  std::vector<Chunk*> unnamed;
  for (const auto& [hash, chunk] : chunks_) {
    if (chunk->refs == 0) unnamed.push_back(chunk.get());
  }
  for (Chunk* chunk : unnamed) EraseChunk(chunk);
  LogInfo("restored", {{"sessions", sessions_.size()}, {"chunks", chunks_.size()}, {"deleted_chunks", unnamed.size()}});
  return absl::OkStatus();
}

void BlockStore::LoadSession(SessionRecord record) {
  if (!ValidateSessionName(record.name).ok()) return;
  Session session;
  session.named = true;
  session.model = record.model;
  session.epoch = record.epoch;
  session.last_used_unix_s = record.last_used_unix_s;
  ChunkHash previous = SeedHash(record.model, geometry_);
  for (const ChunkHash& hash : record.chunks) {
    const Chunk* chunk = FindWhole(hash);
    if (chunk == nullptr || chunk->parent != previous) break;
    session.chunks.push_back(hash);
    previous = hash;
  }
  if (session.chunks.size() == record.chunks.size()) {
    session.tail_tokens = std::move(record.tail_tokens);
  } else {
    LogWarning("session cut back to what was durable",
               {{"session", record.name}, {"chunks", session.chunks.size()}, {"of", record.chunks.size()}});
    sessions_to_put_.insert(record.name);
  }
  session.pinned = options_.pinned_sessions.contains(record.name);
  for (const ChunkHash& hash : session.chunks) {
    AddRef(hash);
    if (session.pinned) Pinned(hash, 1);
  }
  sessions_[record.name] = std::move(session);
}

}  // namespace hga
