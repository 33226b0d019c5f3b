#include "kv_store/tier/memory_tier.h"

#include <cstring>

namespace hga {

absl::Status MemoryTier::SetGeometry(const KvGeometry& geometry) {
  std::lock_guard<std::mutex> lock(mu_);
  geometry_ = geometry;
  return absl::OkStatus();
}

absl::StatusOr<KvGeometry> MemoryTier::GetGeometry() {
  std::lock_guard<std::mutex> lock(mu_);
  if (!geometry_.has_value()) return absl::NotFoundError("no geometry yet");
  return *geometry_;
}

absl::Status MemoryTier::Write(const WriteStep& step) {
  std::lock_guard<std::mutex> lock(mu_);
  if (!write_status_.ok()) return write_status_;
  for (const ChunkHash& chunk : step.delete_chunks) {
    chunks_.erase(chunk);
    summaries_.erase(chunk);
    blocks_.erase(blocks_.lower_bound({chunk, 0}), blocks_.upper_bound({chunk, ~0u}));
  }
  for (const std::string& name : step.delete_sessions) sessions_.erase(name);
  for (const ChunkWrite& chunk : step.put_chunks) {
    for (uint32_t layer = 0; layer < chunk.blocks.size(); ++layer) {
      blocks_[{chunk.record->hash, layer}].assign(reinterpret_cast<const char*>(chunk.blocks[layer]),
                                                  geometry_->block_bytes());
    }
    chunks_[chunk.record->hash] = *chunk.record;
    summaries_[chunk.record->hash] = *chunk.summary;
  }
  for (const SessionRecord& session : step.put_sessions) sessions_[session.name] = session;
  return absl::OkStatus();
}

void MemoryTier::ReadBlocks(absl::Span<BlockRead> reads) {
  std::lock_guard<std::mutex> lock(mu_);
  for (BlockRead& read : reads) {
    const auto found = blocks_.find({read.name.chunk, read.name.layer});
    if (found == blocks_.end()) {
      read.status = absl::NotFoundError("no such block");
      continue;
    }
    std::memcpy(read.out, found->second.data(), found->second.size());
    const uint64_t checksum = BlockChecksum(read.out, found->second.size());
    const bool good = checksum == chunks_[read.name.chunk].checksums[read.name.layer];
    read.status = good ? absl::OkStatus() : absl::DataLossError("block has a bad checksum");
  }
}

absl::StatusOr<SummaryRecord> MemoryTier::ReadSummary(const ChunkHash& chunk) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = summaries_.find(chunk);
  if (found == summaries_.end()) return absl::NotFoundError("no such chunk");
  return found->second;
}

absl::Status MemoryTier::ForEachChunk(absl::FunctionRef<void(ChunkRecord)> visit) {
  std::lock_guard<std::mutex> lock(mu_);
  for (const auto& [hash, record] : chunks_) visit(record);
  return absl::OkStatus();
}

absl::Status MemoryTier::ForEachSession(absl::FunctionRef<void(SessionRecord)> visit) {
  std::lock_guard<std::mutex> lock(mu_);
  for (const auto& [name, record] : sessions_) visit(record);
  return absl::OkStatus();
}

TierStats MemoryTier::Stats() {
  std::lock_guard<std::mutex> lock(mu_);
  TierStats stats;
  for (const auto& [id, block] : blocks_) stats.disk_bytes += block.size();
  return stats;
}

void MemoryTier::FailWrites(absl::Status status) {
  std::lock_guard<std::mutex> lock(mu_);
  write_status_ = std::move(status);
}

bool MemoryTier::DamageBlock(const BlockName& name) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = blocks_.find({name.chunk, name.layer});
  if (found == blocks_.end()) return false;
  found->second[0] ^= 1;
  return true;
}

bool MemoryTier::HasBlock(const BlockName& name) {
  std::lock_guard<std::mutex> lock(mu_);
  return blocks_.count({name.chunk, name.layer}) > 0;
}

bool MemoryTier::HasChunk(const ChunkHash& chunk) {
  std::lock_guard<std::mutex> lock(mu_);
  return chunks_.count(chunk) > 0;
}

}  // namespace hga
