// What a RocksDB database tells of itself.
#ifndef HGA_KV_STORE_TIER_ROCKS_STATS_H_
#define HGA_KV_STORE_TIER_ROCKS_STATS_H_

#include <string>
#include <vector>

#include "kv_store/tier/kv_tier.h"
#include "rocksdb/db.h"
#include "rocksdb/statistics.h"

namespace hga {

// Space that the files in `folder` take.
uint64_t FolderBytes(const std::string& folder);

// `statistics` is the one that `db` was opened with. Thread-safe.
TierStats RocksStats(rocksdb::DB* db, const std::vector<rocksdb::ColumnFamilyHandle*>& families,
                     const rocksdb::Statistics& statistics, const std::string& data_dir);

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_ROCKS_STATS_H_
