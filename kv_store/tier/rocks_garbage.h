// What of the disk tier's database is dead, and how its room comes back. Blob files are rewritten here only.
#ifndef HGA_KV_STORE_TIER_ROCKS_GARBAGE_H_
#define HGA_KV_STORE_TIER_ROCKS_GARBAGE_H_

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/serial_executor.h"
#include "kv_store/tier/kv_tier.h"
#include "rocksdb/db.h"

namespace hga {

// Thread-safe. Everything runs in turns of one thread, so that who needs room now waits for a part of a compaction, not
// for all of it.
class RocksGarbage {
 public:
  // `blocks`: the family whose blob files are collected by themselves; Compact is about all of `families`.
  RocksGarbage(rocksdb::DB* db, std::vector<rocksdb::ColumnFamilyHandle*> families, rocksdb::ColumnFamilyHandle* blocks,
               std::string folder, uint64_t disk_bytes)
      : db_(db), families_(std::move(families)), blocks_(blocks), folder_(std::move(folder)), disk_bytes_(disk_bytes) {}
  ~RocksGarbage();  // what is under way ends early

  // So many bytes of blocks were deleted; what that calls for is done in the background.
  void Deleted(uint64_t bytes);
  uint64_t deleted_bytes() const { return deleted_bytes_; }  // since the last collection
  // Keeps the folder within its budget: collects first, then RESOURCE_EXHAUSTED.
  absl::Status MakeRoom(uint64_t wanted);
  // As KvTier::Compact.
  absl::Status Compact(Compaction* compaction);

 private:
  struct Plan {
    rocksdb::ColumnFamilyHandle* family;
    uint64_t last_file;  // number of the newest blob file with anything dead in it
  };

  void Collect(uint64_t wanted);
  rocksdb::Status CompactIndex(rocksdb::ColumnFamilyHandle* family, Compaction* compaction);
  rocksdb::Status Run(const rocksdb::CompactRangeOptions& options, rocksdb::ColumnFamilyHandle* family);
  absl::Status MoveLive(const Plan& plan, Compaction* compaction);
  absl::StatusOr<bool> MoveSome(const Plan& plan, Compaction* compaction);

  rocksdb::DB* const db_;
  const std::vector<rocksdb::ColumnFamilyHandle*> families_;
  rocksdb::ColumnFamilyHandle* const blocks_;
  const std::string folder_;
  const uint64_t disk_bytes_;  // budget; 0: none
  std::atomic<uint64_t> deleted_bytes_{0};
  SerialExecutor turns_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_ROCKS_GARBAGE_H_
