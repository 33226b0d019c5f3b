// A second level of RAM between the arena and the disk: blocks packed to 8 bits, as they lie on disk, with their
// checksums. Attention reads the arena in place and needs bf16 there; here the same K/V takes 33/64 of the bytes.
//
// Filled by what is written to the disk and by what is read from it, with the bytes that the disk tier packed or found:
// a block that is not packed there (another type, or never rounded) is not kept. Reads look here first. Every block is
// checked when it is unpacked; a damaged one is dropped and read from disk.
#ifndef HGA_KV_STORE_TIER_PACKED_TIER_H_
#define HGA_KV_STORE_TIER_PACKED_TIER_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "kv_store/tier/kv_tier.h"
#include "kv_store/tier/packed_cache.h"

namespace hga {

// Thread-safe as the tier in it is.
class PackedTier : public KvTier {
 public:
  // `disk` packs (BlockRead::stored, ChunkWrite::stored).
  PackedTier(std::shared_ptr<KvTier> disk, uint64_t budget_bytes) : disk_(std::move(disk)), cache_(budget_bytes) {}

  absl::Status SetGeometry(const KvGeometry& geometry) override;
  absl::StatusOr<KvGeometry> GetGeometry() override;
  absl::Status Write(const WriteStep& step) override;
  bool IsInRam(const BlockName& name) override { return cache_.Has(name); }
  void ReadBlocks(absl::Span<BlockRead> reads) override;
  absl::StatusOr<SummaryRecord> ReadSummary(const ChunkHash& chunk) override { return disk_->ReadSummary(chunk); }
  std::vector<absl::StatusOr<ChunkRecord>> ReadChunks(absl::Span<const ChunkHash> chunks) override {
    return disk_->ReadChunks(chunks);
  }
  absl::Status ForEachChunk(absl::FunctionRef<void(Scanned<ChunkRecord>)> visit) override {
    return disk_->ForEachChunk(visit);
  }
  absl::Status ForEachSession(absl::FunctionRef<void(Scanned<SessionRecord>)> visit) override {
    return disk_->ForEachSession(visit);
  }
  absl::Status Compact(Compaction* compaction) override { return disk_->Compact(compaction); }
  TierStats Stats() override;

 private:
  // A batch that is being read from the disk, to be kept afterwards. `stale`: a write changed a chunk meanwhile, so
  // nobody knows whether what was read is what is there now.
  struct Filling {
    absl::Span<const BlockRead> reads;
    bool stale = false;
  };

  void UseGeometry(const KvGeometry& geometry);
  bool ReadPacked(BlockRead* read);
  void ReadFromDisk(absl::Span<BlockRead> reads);
  void Forget(const absl::flat_hash_set<ChunkHash>& chunks);

  const std::shared_ptr<KvTier> disk_;
  PackedCache cache_;
  std::atomic<uint32_t> layers_{0};
  std::atomic<size_t> block_bytes_{0};
  std::atomic<uint64_t> checksum_errors_{0};

  std::mutex mu_;  // held while a batch is put into the cache or a write takes chunks out of it
  std::vector<Filling*> fillings_;  // guarded by mu_
};

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_PACKED_TIER_H_
