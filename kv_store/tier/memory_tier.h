// A KvTier in memory, for tests: keeps what was written, can fail and can damage a block.
#ifndef HGA_KV_STORE_TIER_MEMORY_TIER_H_
#define HGA_KV_STORE_TIER_MEMORY_TIER_H_

#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/kv/kv_dtype.h"
#include "kv_store/tier/kv_tier.h"

namespace hga {

// Thread-safe.
class MemoryTier : public KvTier {
 public:
  // `dtype`: what blocks of rounded values are packed to, as the disk tier does it.
  explicit MemoryTier(KvDtype dtype = KvDtype::kBf16) : dtype_(dtype) {}

  absl::Status SetGeometry(const KvGeometry& geometry) override;
  absl::StatusOr<KvGeometry> GetGeometry() override;
  absl::Status Write(const WriteStep& step) override;
  void ReadBlocks(absl::Span<BlockRead> reads) override;
  absl::StatusOr<SummaryRecord> ReadSummary(const ChunkHash& chunk) override;
  std::vector<absl::StatusOr<ChunkRecord>> ReadChunks(absl::Span<const ChunkHash> chunks) override;
  absl::Status ForEachChunk(absl::FunctionRef<void(Scanned<ChunkRecord>)> visit) override;
  absl::Status ForEachSession(absl::FunctionRef<void(Scanned<SessionRecord>)> visit) override;
  absl::Status Compact(Compaction*) override { return absl::OkStatus(); }  // deletions take effect at once
  TierStats Stats() override;

  // Every Write fails with `status` until it is OK again.
  void FailWrites(absl::Status status);
  // What a disk does to a block that it has said it wrote.
  enum class Damage { kFlippedBit, kShort, kDropped };
  // False if the block is not there.
  bool DamageBlock(const BlockName& name, Damage damage = Damage::kFlippedBit);
  bool DamageSession(const std::string& name);  // its record decodes no more
  bool HasBlock(const BlockName& name);
  // Whether the chunk is there with its blocks, not only with its token ids.
  bool HasChunk(const ChunkHash& chunk);
  // Names of everything that takes room, in order.
  std::vector<ChunkHash> ChunksWithBlocks();
  std::vector<ChunkHash> ChunkRecords();
  std::vector<std::string> SessionNames();

 private:
  using BlockId = std::pair<ChunkHash, uint32_t>;

  // With mu_ held.
  std::string Encode(const uint8_t* block, uint64_t checksum) const;
  void EraseBlocks(const ChunkHash& chunk);
  void EraseSession(const std::string& name);

  const KvDtype dtype_;
  std::mutex mu_;
  // Guarded by mu_.
  std::optional<KvGeometry> geometry_;
  absl::Status write_status_;
  std::map<BlockId, std::string> blocks_;  // as they would lie on disk
  std::map<ChunkHash, ChunkRecord> chunks_;
  std::map<ChunkHash, SummaryRecord> summaries_;
  std::map<std::string, SessionRecord> sessions_;
  std::set<std::string> damaged_sessions_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_MEMORY_TIER_H_
