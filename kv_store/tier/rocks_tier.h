// The disk tier: RocksDB with one column family per kind of record.
//
//   blocks     chunk hash, layer (big-endian)  ->  header (record_codec.h), K/V bytes; in blob files
//   chunks     chunk hash                      ->  ChunkRecord
//   summaries  chunk hash                      ->  SummaryRecord
//   sessions   name                            ->  SessionRecord
//   default    "geometry"                      ->  KvGeometry
//
// A WriteStep is one write batch, synced once: a chunk's record is there exactly if all of the chunk is.
#ifndef HGA_KV_STORE_TIER_ROCKS_TIER_H_
#define HGA_KV_STORE_TIER_ROCKS_TIER_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "kv_store/tier/kv_tier.h"

namespace hga {

struct RocksTierOptions {
  std::string data_dir;                      // made 0700 where missing
  uint64_t block_cache_bytes = 32ull << 20;  // RocksDB's own cache: indexes and small records, never blocks
  bool direct_io = true;                     // falls back by itself where the file system cannot
};

// FAILED_PRECONDITION from Open: another process has the folder open.
absl::StatusOr<std::unique_ptr<KvTier>> OpenRocksTier(const RocksTierOptions& options);

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_ROCKS_TIER_H_
