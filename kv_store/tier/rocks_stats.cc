#include "kv_store/tier/rocks_stats.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

namespace hga {

uint64_t FolderBytes(const std::string& folder) {
  uint64_t bytes = 0;
  DIR* dir = ::opendir(folder.c_str());
  if (dir == nullptr) return 0;
  while (const dirent* entry = ::readdir(dir)) {
    struct stat file;
    if (::fstatat(::dirfd(dir), entry->d_name, &file, 0) == 0 && S_ISREG(file.st_mode)) bytes += file.st_blocks * 512;
  }
  ::closedir(dir);
  return bytes;
}

TierStats RocksStats(rocksdb::DB* db, const std::vector<rocksdb::ColumnFamilyHandle*>& families,
                     const rocksdb::Statistics& statistics, const std::string& data_dir) {
  TierStats stats;
  stats.disk_bytes = FolderBytes(data_dir);
  const auto property = [&](rocksdb::ColumnFamilyHandle* family, const std::string& name) {
    uint64_t value = 0;
    return db->GetIntProperty(family, name, &value) ? value : 0;
  };
  for (rocksdb::ColumnFamilyHandle* family : families) {
    stats.garbage_bytes += property(family, rocksdb::DB::Properties::kLiveBlobFileGarbageSize);
    stats.memtable_bytes += property(family, rocksdb::DB::Properties::kCurSizeAllMemTables);
    stats.pending_compaction_bytes += property(family, rocksdb::DB::Properties::kEstimatePendingCompactionBytes);
  }
  // These are of the whole database, whichever family is asked.
  stats.block_cache_bytes = property(families[0], rocksdb::DB::Properties::kBlockCacheUsage);
  stats.running_compactions = property(families[0], rocksdb::DB::Properties::kNumRunningCompactions);
  stats.running_flushes = property(families[0], rocksdb::DB::Properties::kNumRunningFlushes);

  stats.read_bytes = statistics.getTickerCount(rocksdb::BLOB_DB_BLOB_FILE_BYTES_READ);
  stats.flush_written_bytes = statistics.getTickerCount(rocksdb::FLUSH_WRITE_BYTES);
  stats.wal_written_bytes = statistics.getTickerCount(rocksdb::WAL_FILE_BYTES);
  stats.compaction_read_bytes = statistics.getTickerCount(rocksdb::COMPACT_READ_BYTES);
  stats.compaction_written_bytes = statistics.getTickerCount(rocksdb::COMPACT_WRITE_BYTES);
  stats.relocated_bytes = statistics.getTickerCount(rocksdb::BLOB_DB_GC_BYTES_RELOCATED);
  stats.block_cache_hits = statistics.getTickerCount(rocksdb::BLOCK_CACHE_HIT);
  stats.block_cache_misses = statistics.getTickerCount(rocksdb::BLOCK_CACHE_MISS);
  stats.stall_micros = statistics.getTickerCount(rocksdb::STALL_MICROS);

  struct statvfs device {};
  if (::statvfs(data_dir.c_str(), &device) == 0) {
    stats.device_bytes = uint64_t{device.f_blocks} * device.f_frsize;
    stats.device_free_bytes = uint64_t{device.f_bavail} * device.f_frsize;
  }
  return stats;
}

}  // namespace hga
