// The seam to durable storage. Implementations: rocks_tier.h (the disk tier), packed_tier.h (RAM before it),
// memory_tier.h (tests and faults).
#ifndef HGA_KV_STORE_TIER_KV_TIER_H_
#define HGA_KV_STORE_TIER_KV_TIER_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/kv/block_heads.h"
#include "common/kv/geometry.h"
#include "common/kv/ids.h"

namespace hga {

// What is kept of a chunk beside its blocks, except the summary. Without checksums: only the token ids are there,
// so that the chunk can be computed again.
struct ChunkRecord {
  ChunkHash hash;
  ChunkHash parent;
  std::vector<uint32_t> token_ids;  // [chunk_tokens]
  std::vector<uint64_t> checksums;  // [layers]; none: the blocks are not there (yet)
};

struct SummaryRecord {
  std::string method;
  std::string data;
};

struct SessionRecord {
  std::string name;
  ModelFingerprint model;
  uint64_t epoch = 0;
  int64_t last_used_unix_s = 0;
  std::vector<ChunkHash> chunks;
  std::vector<uint32_t> tail_tokens;
  bool pinned = false;  // by a request
};

struct ChunkWrite {
  std::shared_ptr<const ChunkRecord> record;
  std::shared_ptr<const SummaryRecord> summary;
  std::vector<const uint8_t*> blocks;  // [layers], block_bytes each, stable until Write returns
  // Where set: [layers], where the tier may leave each block packed, header and all, if it packed it.
  std::vector<std::string>* stored = nullptr;
};

// One atomic step: either all of it is durable or none. Applied in this order.
struct WriteStep {
  std::vector<ChunkHash> delete_chunks;
  // Their blocks go, their token ids stay: the record is written again without checksums. Nothing where there is none.
  std::vector<ChunkHash> drop_blocks;
  std::vector<std::string> delete_sessions;
  std::vector<ChunkRecord> put_tokens;  // records without checksums
  std::vector<ChunkWrite> put_chunks;
  std::vector<SessionRecord> put_sessions;

  bool empty() const {
    return delete_chunks.empty() && drop_blocks.empty() && delete_sessions.empty() && put_tokens.empty() &&
           put_chunks.empty() && put_sessions.empty();
  }
};

struct BlockRead {
  BlockName name;
  uint8_t* out = nullptr;  // block_bytes
  absl::Status status;     // OK, NOT_FOUND, DATA_LOSS (bad checksum or format), UNAVAILABLE
  uint64_t checksum = 0;   // of `out`, where the status is OK
  bool from_ram = false;   // packed there, not read from disk
  // Of these alone is anything left in `out`, at their places, unless the tier finds all of them as easily; then
  // `checksum` is of no use.
  uint64_t heads = kAllHeads;
  // Where set: the tier may leave the block here, packed, header and all, if it is packed and was read whole.
  std::string* stored = nullptr;
};

// One record of a scan.
template <typename Record>
struct Scanned {
  std::string key;
  absl::StatusOr<Record> record;
};

// What a tier tells of itself; 0 where it has no such thing. The first are levels, the others count up.
struct TierStats {
  uint64_t disk_bytes = 0;                                // files as they are
  uint64_t garbage_bytes = 0;                             // of these, of deleted blocks
  uint64_t device_bytes = 0, device_free_bytes = 0;       // of the file system it lies on
  uint64_t memory_bytes = 0, memory_budget_bytes = 0;     // the database's own: cache, memtables, table readers
  uint64_t memtable_bytes = 0, block_cache_bytes = 0;     // of these
  uint64_t pending_compaction_bytes = 0, running_compactions = 0, running_flushes = 0;
  uint64_t packed_ram_bytes = 0, packed_ram_budget_bytes = 0, packed_ram_blocks = 0;  // packed_tier.h

  uint64_t read_bytes = 0;
  uint64_t flush_written_bytes = 0, wal_written_bytes = 0;
  uint64_t compaction_read_bytes = 0, compaction_written_bytes = 0;
  uint64_t relocated_bytes = 0;  // of these, live blocks moved so that dead ones could go
  uint64_t block_cache_hits = 0, block_cache_misses = 0;
  uint64_t stall_micros = 0;  // writes held up by flushes and compactions
  uint64_t packed_ram_evictions = 0, packed_ram_checksum_errors = 0;

  uint64_t written_bytes() const { return flush_written_bytes + wal_written_bytes + compaction_written_bytes; }
};

// A compaction under way, seen from another thread.
struct Compaction {
  std::atomic<bool> cancelled{false};  // set by who watches: end soon
  std::atomic<uint64_t> done_bytes{0}, all_bytes{0};  // of files to rewrite; all: 0 until known
};

// Thread-safe: Write is called by one thread, reads by several.
class KvTier {
 public:
  virtual ~KvTier() = default;

  // Fixes layers and block size of everything written and read from now on; called before either.
  virtual absl::Status SetGeometry(const KvGeometry& geometry) = 0;
  // Geometry that was set last, also before a restart. NOT_FOUND: none.
  virtual absl::StatusOr<KvGeometry> GetGeometry() = 0;

  // When it returns OK, all of `step` survives a crash. RESOURCE_EXHAUSTED: the disk or its budget is full. After an
  // error nobody knows: all of it may be there, or none.
  virtual absl::Status Write(const WriteStep& step) = 0;
  // Whether reading the block would not wait for the disk. A hint: it may be otherwise the moment after.
  virtual bool IsInRam(const BlockName&) { return false; }
  // Sets every read's status; verifies each block's checksum.
  virtual void ReadBlocks(absl::Span<BlockRead> reads) = 0;
  virtual absl::StatusOr<SummaryRecord> ReadSummary(const ChunkHash& chunk) = 0;
  // One result per chunk, in order: NOT_FOUND, DATA_LOSS.
  virtual std::vector<absl::StatusOr<ChunkRecord>> ReadChunks(absl::Span<const ChunkHash> chunks) = 0;

  // For a restart. A record that does not decode is a DATA_LOSS with nothing but its key: a chunk's hash, a
  // session's name.
  virtual absl::Status ForEachChunk(absl::FunctionRef<void(Scanned<ChunkRecord>)> visit) = 0;
  virtual absl::Status ForEachSession(absl::FunctionRef<void(Scanned<SessionRecord>)> visit) = 0;

  // Gives the room of everything that was deleted back, a bounded part at a time; reads and writes go on. One call at a
  // time. CANCELLED; RESOURCE_EXHAUSTED: no room to move what is left. What was done until then stays done.
  virtual absl::Status Compact(Compaction* compaction) = 0;

  virtual TierStats Stats() = 0;
};

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_KV_TIER_H_
