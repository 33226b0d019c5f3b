#include "kv_store/tier/rocks_options.h"

#include <algorithm>

#include "rocksdb/filter_policy.h"
#include "rocksdb/table.h"

namespace hga {
namespace {

constexpr uint64_t kBlobFileBytes = 256ull << 20;
constexpr uint64_t kMaxWriteBuffer = 32ull << 20;  // one is filled while the one before is flushed

rocksdb::BlockBasedTableOptions TableOptions(const RocksShared& shared) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = shared.cache;
  table.cache_index_and_filter_blocks = true;
  table.cache_index_and_filter_blocks_with_high_priority = true;
  table.pin_l0_filter_and_index_blocks_in_cache = true;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  table.cache_usage_options.options_overrides[rocksdb::CacheEntryRole::kBlockBasedTableReader] = {
      rocksdb::CacheEntryRoleOptions::Decision::kEnabled};
  return table;
}

}  // namespace

RocksShared MakeRocksShared(uint64_t memory_bytes) {
  RocksShared shared;
  rocksdb::LRUCacheOptions cache;
  cache.capacity = memory_bytes;
  cache.high_pri_pool_ratio = 0.5;
  shared.cache = rocksdb::NewLRUCache(cache);
  // Half for what is being written; it counts against the cache, so the sum stays one budget.
  shared.write_buffers = std::make_shared<rocksdb::WriteBufferManager>(memory_bytes / 2, shared.cache);
  shared.statistics = rocksdb::CreateDBStatistics();
  // Counts only: histograms and timers of every read would cost more than they tell.
  shared.statistics->set_stats_level(rocksdb::StatsLevel::kExceptHistogramOrTimers);
  return shared;
}

rocksdb::DBOptions DatabaseOptions(const RocksShared& shared, bool direct_io) {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.write_buffer_manager = shared.write_buffers;
  options.statistics = shared.statistics;
  options.max_total_wal_size = 64ull << 20;
  // Two of 32 MiB flush side by side: one computes the database's checksums while the other waits for the disk.
  options.max_background_flushes = 2;
  options.max_background_compactions = 2;
  options.writable_file_max_buffer_size = 4 << 20;  // of a direct write
  options.max_open_files = 512;
  options.keep_log_file_num = 4;
  options.max_log_file_size = 8 << 20;
  options.use_direct_reads = direct_io;
  options.use_direct_io_for_flush_and_compaction = direct_io;
  if (!direct_io) options.bytes_per_sync = 1 << 20;
  options.compaction_readahead_size = 1 << 20;
  return options;
}

rocksdb::ColumnFamilyOptions SmallFamily(const RocksShared& shared) {
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(TableOptions(shared)));
  options.write_buffer_size = 8 << 20;
  options.max_write_buffer_number = 2;
  options.compression = rocksdb::kNoCompression;
  return options;
}

rocksdb::ColumnFamilyOptions BlobFamily(const RocksShared& shared) {
  rocksdb::ColumnFamilyOptions options = SmallFamily(shared);
  options.write_buffer_size =
      std::min<uint64_t>(kMaxWriteBuffer, std::max<uint64_t>(shared.write_buffers->buffer_size() / 4, 1 << 20));
  options.max_write_buffer_number = 3;
  options.enable_blob_files = true;
  options.min_blob_size = 1024;
  options.blob_file_size = kBlobFileBytes;
  options.blob_compaction_readahead_size = 1 << 20;
  return options;
}

}  // namespace hga
