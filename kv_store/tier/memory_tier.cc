#include "kv_store/tier/memory_tier.h"

#include <utility>

#include "common/kv/block_parts.h"
#include "kv_store/tier/record_codec.h"

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
    EraseBlocks(chunk);
  }
  for (const ChunkHash& chunk : step.drop_blocks) {
    if (const auto found = chunks_.find(chunk); found != chunks_.end()) found->second.checksums.clear();
    EraseBlocks(chunk);
  }
  for (const std::string& name : step.delete_sessions) EraseSession(name);
  for (const ChunkRecord& record : step.put_tokens) chunks_[record.hash] = record;
  for (const ChunkWrite& chunk : step.put_chunks) {
    for (uint32_t layer = 0; layer < chunk.blocks.size(); ++layer) {
      std::string& value = blocks_[{chunk.record->hash, layer}];
      value = Encode(chunk.blocks[layer], chunk.record->checksums[layer]);
      if (chunk.stored != nullptr && IsPackedBlock(value)) (*chunk.stored)[layer] = value;
    }
    chunks_[chunk.record->hash] = *chunk.record;
    summaries_[chunk.record->hash] = *chunk.summary;
  }
  for (const SessionRecord& session : step.put_sessions) {
    EraseSession(session.name);
    sessions_[session.name] = session;
  }
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
    const auto record = chunks_.find(read.name.chunk);
    if (record == chunks_.end() || read.name.layer >= record->second.checksums.size()) {
      read.status = absl::DataLossError("block has no record");
      continue;
    }
    std::vector<uint8_t> block(geometry_->block_bytes());
    const auto checksum = DecodeBlock(found->second, block.size(), block.data());
    CopyHeads(*geometry_, read.heads, block.data(), read.out);
    read.status = checksum.status();
    read.checksum = checksum.value_or(0);
    if (checksum.ok() && read.stored != nullptr && IsPackedBlock(found->second)) *read.stored = found->second;
  }
}

absl::StatusOr<SummaryRecord> MemoryTier::ReadSummary(const ChunkHash& chunk) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = summaries_.find(chunk);
  if (found == summaries_.end()) return absl::NotFoundError("no such chunk");
  return found->second;
}

absl::Status MemoryTier::ForEachChunk(absl::FunctionRef<void(Scanned<ChunkRecord>)> visit) {
  std::lock_guard<std::mutex> lock(mu_);
  for (const auto& [hash, record] : chunks_) visit({hash.ToBytes(), record});
  return absl::OkStatus();
}

absl::Status MemoryTier::ForEachSession(absl::FunctionRef<void(Scanned<SessionRecord>)> visit) {
  std::lock_guard<std::mutex> lock(mu_);
  for (const auto& [name, record] : sessions_) {
    if (damaged_sessions_.count(name) > 0) {
      visit({name, absl::DataLossError("session record is damaged")});
    } else {
      visit({name, record});
    }
  }
  return absl::OkStatus();
}

std::vector<absl::StatusOr<ChunkRecord>> MemoryTier::ReadChunks(absl::Span<const ChunkHash> chunks) {
  std::lock_guard<std::mutex> lock(mu_);
  std::vector<absl::StatusOr<ChunkRecord>> records;
  for (const ChunkHash& chunk : chunks) {
    const auto found = chunks_.find(chunk);
    if (found == chunks_.end()) {
      records.push_back(absl::NotFoundError("no such chunk"));
    } else {
      records.push_back(found->second);
    }
  }
  return records;
}

std::string MemoryTier::Encode(const uint8_t* block, uint64_t checksum) const {
  std::string value;
  if (dtype_ != KvDtype::kBf16 && geometry_->dtype == KvDtype::kBf16) {
    value = EncodePackedHeader(checksum, dtype_, geometry_->head_dim);
    if (PackBlock(dtype_, geometry_->head_dim, block, geometry_->block_bytes(), &value)) return value;
  }
  value = EncodeBlockHeader(checksum);
  return value.append(reinterpret_cast<const char*>(block), geometry_->block_bytes());
}

void MemoryTier::EraseBlocks(const ChunkHash& chunk) {
  summaries_.erase(chunk);
  blocks_.erase(blocks_.lower_bound({chunk, 0}), blocks_.upper_bound({chunk, ~0u}));
}

void MemoryTier::EraseSession(const std::string& name) {
  sessions_.erase(name);
  damaged_sessions_.erase(name);
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

bool MemoryTier::DamageBlock(const BlockName& name, Damage damage) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = blocks_.find({name.chunk, name.layer});
  if (found == blocks_.end()) return false;
  if (damage == Damage::kDropped) {
    blocks_.erase(found);
  } else if (damage == Damage::kShort) {
    found->second.resize(found->second.size() / 2);
  } else {
    found->second.back() ^= 1;
  }
  return true;
}

bool MemoryTier::DamageSession(const std::string& name) {
  std::lock_guard<std::mutex> lock(mu_);
  return sessions_.count(name) > 0 && damaged_sessions_.insert(name).second;
}

bool MemoryTier::HasBlock(const BlockName& name) {
  std::lock_guard<std::mutex> lock(mu_);
  return blocks_.count({name.chunk, name.layer}) > 0;
}

bool MemoryTier::HasChunk(const ChunkHash& chunk) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = chunks_.find(chunk);
  return found != chunks_.end() && !found->second.checksums.empty();
}

std::vector<ChunkHash> MemoryTier::ChunksWithBlocks() {
  std::lock_guard<std::mutex> lock(mu_);
  std::vector<ChunkHash> chunks;
  for (const auto& [id, block] : blocks_) {
    if (chunks.empty() || chunks.back() != id.first) chunks.push_back(id.first);
  }
  return chunks;
}

std::vector<ChunkHash> MemoryTier::ChunkRecords() {
  std::lock_guard<std::mutex> lock(mu_);
  std::vector<ChunkHash> chunks;
  for (const auto& [hash, record] : chunks_) chunks.push_back(hash);
  return chunks;
}

std::vector<std::string> MemoryTier::SessionNames() {
  std::lock_guard<std::mutex> lock(mu_);
  std::vector<std::string> names;
  for (const auto& [name, record] : sessions_) names.push_back(name);
  return names;
}

}  // namespace hga
