// A KvTier in memory, for tests: keeps what was written, can fail and can damage a block.
#ifndef HGA_KV_STORE_TIER_MEMORY_TIER_H_
#define HGA_KV_STORE_TIER_MEMORY_TIER_H_

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "kv_store/tier/kv_tier.h"

namespace hga {

// Thread-safe.
class MemoryTier : public KvTier {
 public:
  absl::Status SetGeometry(const KvGeometry& geometry) override;
  absl::StatusOr<KvGeometry> GetGeometry() override;
  absl::Status Write(const WriteStep& step) override;
  void ReadBlocks(absl::Span<BlockRead> reads) override;
  absl::StatusOr<SummaryRecord> ReadSummary(const ChunkHash& chunk) override;
  absl::Status ForEachChunk(absl::FunctionRef<void(ChunkRecord)> visit) override;
  absl::Status ForEachSession(absl::FunctionRef<void(SessionRecord)> visit) override;
  TierStats Stats() override;

  // Every Write fails with `status` until it is OK again.
  void FailWrites(absl::Status status);
  // Flips a bit of a stored block; false if it is not there.
  bool DamageBlock(const BlockName& name);
  bool HasBlock(const BlockName& name);
  bool HasChunk(const ChunkHash& chunk);

 private:
  using BlockId = std::pair<ChunkHash, uint32_t>;

  std::mutex mu_;
  // Guarded by mu_.
  std::optional<KvGeometry> geometry_;
  absl::Status write_status_;
  std::map<BlockId, std::string> blocks_;
  std::map<ChunkHash, ChunkRecord> chunks_;
  std::map<ChunkHash, SummaryRecord> summaries_;
  std::map<std::string, SessionRecord> sessions_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_MEMORY_TIER_H_
