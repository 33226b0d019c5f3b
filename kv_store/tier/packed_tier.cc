#include "kv_store/tier/packed_tier.h"

#include <algorithm>
#include <string>
#include <utility>

#include "common/base/log.h"
#include "common/base/status.h"
#include "kv_store/tier/record_codec.h"

namespace hga {

absl::Status PackedTier::SetGeometry(const KvGeometry& geometry) {
  HGA_RETURN_IF_ERROR(disk_->SetGeometry(geometry));
  UseGeometry(geometry);
  return absl::OkStatus();
}

absl::StatusOr<KvGeometry> PackedTier::GetGeometry() {
  HGA_ASSIGN_OR_RETURN(const KvGeometry geometry, disk_->GetGeometry());
  UseGeometry(geometry);
  return geometry;
}

void PackedTier::UseGeometry(const KvGeometry& geometry) {
  if (geometry.dtype != KvDtype::kBf16) {
    LogWarning("--packed_ram_bytes holds nothing: blocks are 8 bits wide in the arena already; give --arena_bytes the "
               "RAM");
  }
  layers_ = geometry.layers;
  block_bytes_ = geometry.block_bytes();
}

// After an error nobody knows what is on disk, so the chunks are forgotten in any case.
absl::Status PackedTier::Write(const WriteStep& step) {
  WriteStep asking = step;
  std::vector<std::vector<std::string>> stored(step.put_chunks.size());
  for (size_t i = 0; i < stored.size(); ++i) {
    stored[i].resize(step.put_chunks[i].blocks.size());
    asking.put_chunks[i].stored = &stored[i];
  }
  const absl::Status status = disk_->Write(asking);
  absl::flat_hash_set<ChunkHash> changed(step.delete_chunks.begin(), step.delete_chunks.end());
  changed.insert(step.drop_blocks.begin(), step.drop_blocks.end());
  for (const ChunkWrite& chunk : step.put_chunks) changed.insert(chunk.record->hash);
  if (!changed.empty()) Forget(changed);
  for (size_t i = 0; status.ok() && i < stored.size(); ++i) {
    for (uint32_t layer = 0; layer < stored[i].size(); ++layer) {
      if (stored[i][layer].empty()) continue;
      cache_.Put({step.put_chunks[i].record->hash, layer},
                 std::make_shared<const std::string>(std::move(stored[i][layer])));
    }
  }
  return status;
}

void PackedTier::Forget(const absl::flat_hash_set<ChunkHash>& chunks) {
  std::lock_guard<std::mutex> lock(mu_);
  for (Filling* filling : fillings_) {
    for (const BlockRead& read : filling->reads) filling->stale = filling->stale || chunks.contains(read.name.chunk);
  }
  for (const ChunkHash& chunk : chunks) {
    for (uint32_t layer = 0; layer < layers_; ++layer) cache_.Erase({chunk, layer});
  }
}

void PackedTier::ReadBlocks(absl::Span<BlockRead> reads) {
  std::vector<BlockRead> on_disk;
  std::vector<size_t> places;
  for (size_t i = 0; i < reads.size(); ++i) {
    if (ReadPacked(&reads[i])) continue;
    on_disk.push_back(reads[i]);
    places.push_back(i);
  }
  if (on_disk.empty()) return;
  ReadFromDisk(absl::MakeSpan(on_disk));
  for (size_t i = 0; i < places.size(); ++i) reads[places[i]] = std::move(on_disk[i]);
}

bool PackedTier::ReadPacked(BlockRead* read) {
  const PackedCache::Value value = cache_.Get(read->name);
  if (value == nullptr) return false;
  const auto checksum = DecodeBlock(*value, block_bytes_, read->out);
  if (!checksum.ok()) {
    ++checksum_errors_;
    LogError("a packed block is damaged in RAM, read from disk instead",
             {{"chunk", read->name.chunk.ToHex()}, {"layer", read->name.layer}});
    cache_.Erase(read->name);
    return false;
  }
  read->status = absl::OkStatus();
  read->checksum = *checksum;
  read->from_ram = true;
  return true;
}

void PackedTier::ReadFromDisk(absl::Span<BlockRead> reads) {
  std::vector<std::string> stored(reads.size());
  for (size_t i = 0; i < reads.size(); ++i) reads[i].stored = &stored[i];
  Filling filling{reads};
  {
    std::lock_guard<std::mutex> lock(mu_);
    fillings_.push_back(&filling);
  }
  disk_->ReadBlocks(reads);
  std::lock_guard<std::mutex> lock(mu_);
  fillings_.erase(std::find(fillings_.begin(), fillings_.end(), &filling));
  for (size_t i = 0; i < reads.size(); ++i) {
    reads[i].stored = nullptr;
    if (filling.stale || !reads[i].status.ok() || stored[i].empty()) continue;
    cache_.Put(reads[i].name, std::make_shared<const std::string>(std::move(stored[i])));
  }
}

TierStats PackedTier::Stats() {
  TierStats stats = disk_->Stats();
  const PackedCache::Stats cache = cache_.stats();
  stats.packed_ram_bytes = cache.bytes;
  stats.packed_ram_budget_bytes = cache_.budget_bytes();
  stats.packed_ram_blocks = cache.blocks;
  stats.packed_ram_evictions = cache.evictions;
  stats.packed_ram_checksum_errors = checksum_errors_;
  return stats;
}

}  // namespace hga
