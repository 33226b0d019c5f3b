// The disk tier: RocksDB with one column family per kind of record.
//
//   blocks     chunk hash, layer, KV head (big-endian)  ->  header (record_codec.h), what the head has of the block; in
//              blob files, one head behind the other
//   chunks     chunk hash                      ->  ChunkRecord; without checksums: token ids only
//   summaries  chunk hash                      ->  SummaryRecord
//   sessions   name                            ->  SessionRecord
//   default    "geometry", "version"           ->  KvGeometry, kStoreVersion
//              "unfinished"                    ->  chunks whose blocks may be there without a record
//
// A WriteStep is atomic: a chunk's record has checksums exactly if all of the chunk is there. A small step is one
// write batch, synced once. The blocks of a large one go past the write-ahead log, which would write them twice:
// flushed to blob files first, then the records in one synced batch. What a crash leaves between the two is named by
// "unfinished" and deleted at the next start.
//
// Blob files are rewritten only when enough in them is dead, or when --disk_bytes needs the room.
#ifndef HGA_KV_STORE_TIER_ROCKS_TIER_H_
#define HGA_KV_STORE_TIER_ROCKS_TIER_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "common/kv/kv_dtype.h"
#include "kv_store/tier/kv_tier.h"

namespace hga {

struct RocksTierOptions {
  std::string data_dir;                  // made 0700 where missing
  uint64_t memory_bytes = 256ull << 20;  // all of RocksDB's: memtables, indexes, small records; never blocks read
  // Nothing is changed and no lock is taken: what a running kv_store had on disk at this moment. Reads fail with
  // UNAVAILABLE once it has moved a block elsewhere.
  bool read_only = false;
  bool direct_io = true;                 // falls back by itself where the file system cannot
  uint64_t disk_bytes = 0;               // budget of the folder; 0: none
  // Blocks that were rounded to this type are packed; others, and all for bf16, are kept as they are.
  KvDtype kv_dtype = KvDtype::kBf16;
  uint64_t past_log_bytes = 8ull << 20;  // steps of this many bytes of blocks go past the log
};

// FAILED_PRECONDITION from Open: another process has the folder open.
absl::StatusOr<std::unique_ptr<KvTier>> OpenRocksTier(const RocksTierOptions& options);

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_ROCKS_TIER_H_
