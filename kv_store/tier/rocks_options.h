// How the disk tier sets RocksDB up: blob files, direct I/O, and one budget for all of its memory.
#ifndef HGA_KV_STORE_TIER_ROCKS_OPTIONS_H_
#define HGA_KV_STORE_TIER_ROCKS_OPTIONS_H_

#include <cstdint>
#include <memory>

#include "rocksdb/cache.h"
#include "rocksdb/options.h"
#include "rocksdb/statistics.h"
#include "rocksdb/write_buffer_manager.h"

namespace hga {

// What the column families share. The cache is the budget: memtables, indexes, filters, data blocks and table
// readers are all charged to it.
struct RocksShared {
  std::shared_ptr<rocksdb::Cache> cache;
  std::shared_ptr<rocksdb::WriteBufferManager> write_buffers;
  std::shared_ptr<rocksdb::Statistics> statistics;  // bytes written, by cause
};
RocksShared MakeRocksShared(uint64_t memory_bytes);

rocksdb::DBOptions DatabaseOptions(const RocksShared& shared, bool direct_io);
// Small records, kept in the sorted files themselves.
rocksdb::ColumnFamilyOptions SmallFamily(const RocksShared& shared);
// Values go to blob files, which are rewritten only when RocksTier asks for it.
rocksdb::ColumnFamilyOptions BlobFamily(const RocksShared& shared);

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_ROCKS_OPTIONS_H_
