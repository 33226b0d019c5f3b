#include "kv_store/tier/rocks_tier.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "kv_store/tier/record_codec.h"
#include "kv_store/tier/rocks_stats.h"
#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/options.h"
#include "rocksdb/table.h"
#include "rocksdb/write_batch.h"

namespace hga {
namespace {

enum Family { kDefault, kBlocks, kChunks, kSummaries, kSessions, kFamilies };
constexpr const char* kFamilyNames[kFamilies] = {"default", "blocks", "chunks", "summaries", "sessions"};
constexpr char kGeometryKey[] = "geometry";
constexpr size_t kReadsPerMultiGet = 64;

absl::Status ToStatus(const rocksdb::Status& status, const char* what) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = absl::StrCat(what, ": ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(text);
  if (status.IsCorruption()) return absl::DataLossError(text);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(text);
  return absl::UnavailableError(text);
}

absl::string_view View(const rocksdb::Slice& slice) { return absl::string_view(slice.data(), slice.size()); }

rocksdb::ColumnFamilyOptions SmallFamily(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.cache_index_and_filter_blocks = true;
  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.write_buffer_size = 8 << 20;
  options.max_write_buffer_number = 2;
  options.compression = rocksdb::kNoCompression;
  return options;
}

rocksdb::ColumnFamilyOptions BlobFamily(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::ColumnFamilyOptions options = SmallFamily(cache);
  options.write_buffer_size = 32 << 20;
  options.enable_blob_files = true;
  options.min_blob_size = 1024;
  options.blob_file_size = 256ull << 20;
  options.enable_blob_garbage_collection = true;
  options.blob_garbage_collection_age_cutoff = 0.5;
  options.blob_garbage_collection_force_threshold = 0.5;
  return options;
}

rocksdb::DBOptions DatabaseOptions(bool direct_io) {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.max_total_wal_size = 192ull << 20;
  options.max_background_jobs = 2;
  options.max_open_files = 512;
  options.keep_log_file_num = 4;
  options.max_log_file_size = 8 << 20;
  options.bytes_per_sync = 1 << 20;
  options.use_direct_reads = direct_io;
  options.use_direct_io_for_flush_and_compaction = direct_io;
  return options;
}

std::shared_ptr<rocksdb::Statistics> MakeStatistics() {
  auto statistics = rocksdb::CreateDBStatistics();
  statistics->set_stats_level(rocksdb::kExceptHistogramOrTimers);
  return statistics;
}

class RocksTier : public KvTier {
 public:
  absl::Status Open(const RocksTierOptions& options) {
    if (::mkdir(options.data_dir.c_str(), 0700) != 0 && errno != EEXIST) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot make --data_dir ", options.data_dir));
    }
    rocksdb::Status status = OpenDatabase(options, options.direct_io);
    if (options.direct_io && status.IsInvalidArgument()) {
      LogWarning("no direct I/O at ", options.data_dir, " (", status.ToString(),
                 "); reading through the page cache");
      status = OpenDatabase(options, false);
    }
    if (status.ok()) return absl::OkStatus();
    if (absl::StrContains(status.ToString(), "lock")) {
      return absl::FailedPreconditionError(absl::StrCat(
          "--data_dir ", options.data_dir, " is in use by another kv_store (", status.ToString(), ")"));
    }
    return ToStatus(status, "cannot open --data_dir");
  }

  ~RocksTier() override {
    if (db_ == nullptr) return;
    for (rocksdb::ColumnFamilyHandle* family : families_) db_->DestroyColumnFamilyHandle(family);
    db_->Close();
  }

  absl::Status SetGeometry(const KvGeometry& geometry) override {
    rocksdb::WriteOptions sync;
    sync.sync = true;
    HGA_RETURN_IF_ERROR(ToStatus(db_->Put(sync, families_[kDefault], kGeometryKey, EncodeGeometry(geometry)),
                                 "cannot write the geometry"));
    UseGeometry(geometry);
    return absl::OkStatus();
  }

  absl::StatusOr<KvGeometry> GetGeometry() override {
    HGA_ASSIGN_OR_RETURN(const std::string bytes, Get(kDefault, kGeometryKey));
    HGA_ASSIGN_OR_RETURN(KvGeometry geometry, DecodeGeometry(bytes));
    UseGeometry(geometry);
    return geometry;
  }

  absl::Status Write(const WriteStep& step) override {
    rocksdb::WriteBatch batch;
    for (const ChunkHash& chunk : step.delete_chunks) AddDelete(chunk, &batch);
    for (const std::string& name : step.delete_sessions) batch.Delete(families_[kSessions], name);
    for (const ChunkWrite& chunk : step.put_chunks) AddPut(chunk, &batch);
    for (const SessionRecord& s : step.put_sessions)
      batch.Put(families_[kSessions], s.name, EncodeSession(s));
    rocksdb::WriteOptions sync;
    sync.sync = true;
    const rocksdb::Status status = db_->Write(sync, &batch);
    if (!status.ok()) db_->Resume();  // leaves the read-only state that a full disk puts the database into
    return ToStatus(status, "cannot write to disk");
  }

  void ReadBlocks(absl::Span<BlockRead> reads) override {
    for (size_t begin = 0; begin < reads.size(); begin += kReadsPerMultiGet) {
      ReadSome(reads.subspan(begin, std::min(kReadsPerMultiGet, reads.size() - begin)));
    }
  }

  absl::StatusOr<SummaryRecord> ReadSummary(const ChunkHash& chunk) override {
    HGA_ASSIGN_OR_RETURN(const std::string bytes, Get(kSummaries, chunk.ToBytes()));
    return DecodeSummary(bytes);
  }

  absl::Status ForEachChunk(absl::FunctionRef<void(ChunkRecord)> visit) override {
    return Scan(kChunks, [&](absl::string_view bytes) -> absl::Status {
      HGA_ASSIGN_OR_RETURN(ChunkRecord record, DecodeChunk(bytes));
      visit(std::move(record));
      return absl::OkStatus();
    });
  }

  absl::Status ForEachSession(absl::FunctionRef<void(SessionRecord)> visit) override {
    return Scan(kSessions, [&](absl::string_view bytes) -> absl::Status {
      HGA_ASSIGN_OR_RETURN(SessionRecord record, DecodeSession(bytes));
      visit(std::move(record));
      return absl::OkStatus();
    });
  }

  TierStats Stats() override { return RocksStats(db_.get(), families_, *statistics_, data_dir_); }

 private:
  rocksdb::Status OpenDatabase(const RocksTierOptions& options, bool direct_io) {
    const auto cache = rocksdb::NewLRUCache(options.block_cache_bytes);
    std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
    for (int i = 0; i < kFamilies; ++i) {
      const bool blobs = i == kBlocks || i == kSummaries;
      descriptors.emplace_back(kFamilyNames[i], blobs ? BlobFamily(cache) : SmallFamily(cache));
    }
    rocksdb::DBOptions database = DatabaseOptions(direct_io);
    database.statistics = statistics_;
    data_dir_ = options.data_dir;
    rocksdb::DB* db = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(database, options.data_dir, descriptors, &families_, &db);
    db_.reset(db);
    return status;
  }

  void UseGeometry(const KvGeometry& geometry) {
    layers_ = geometry.layers;
    block_bytes_ = geometry.block_bytes();
  }

  void AddDelete(const ChunkHash& chunk, rocksdb::WriteBatch* batch) {
    const std::string key = chunk.ToBytes();
    batch->Delete(families_[kChunks], key);
    batch->Delete(families_[kSummaries], key);
    for (uint32_t layer = 0; layer < layers_; ++layer)
      batch->Delete(families_[kBlocks], BlockKey({chunk, layer}));
  }

  void AddPut(const ChunkWrite& chunk, rocksdb::WriteBatch* batch) {
    for (uint32_t layer = 0; layer < chunk.blocks.size(); ++layer) {
      const std::string key = BlockKey({chunk.record->hash, layer});
      const std::string header = EncodeBlockHeader(chunk.record->checksums[layer]);
      const rocksdb::Slice key_part(key);
      const rocksdb::Slice parts[2] = {
          header, {reinterpret_cast<const char*>(chunk.blocks[layer]), block_bytes_.load()}};
      batch->Put(families_[kBlocks], rocksdb::SliceParts(&key_part, 1), rocksdb::SliceParts(parts, 2));
    }
    const std::string key = chunk.record->hash.ToBytes();
    batch->Put(families_[kSummaries], key, EncodeSummary(*chunk.summary));
    batch->Put(families_[kChunks], key, EncodeChunk(*chunk.record));
  }

  void ReadSome(absl::Span<BlockRead> reads) {
    std::vector<std::string> keys;
    for (const BlockRead& read : reads) keys.push_back(BlockKey(read.name));
    const std::vector<rocksdb::Slice> slices(keys.begin(), keys.end());
    std::vector<rocksdb::PinnableSlice> values(reads.size());
    std::vector<rocksdb::Status> statuses(reads.size());
    rocksdb::ReadOptions options;
    options.verify_checksums = false;  // each block carries a checksum of our own
    options.fill_cache = false;
    db_->MultiGet(options, families_[kBlocks], reads.size(), slices.data(), values.data(), statuses.data());
    for (size_t i = 0; i < reads.size(); ++i) {
      reads[i].status = statuses[i].ok() ? DecodeBlock(View(values[i]), block_bytes_, reads[i].out)
                                         : ToStatus(statuses[i], "cannot read a block");
    }
  }

  absl::StatusOr<std::string> Get(Family family, const std::string& key) {
    std::string value;
    HGA_RETURN_IF_ERROR(ToStatus(db_->Get(rocksdb::ReadOptions(), families_[family], key, &value),
                                 absl::StrCat("no record in ", kFamilyNames[family]).c_str()));
    return value;
  }

  absl::Status Scan(Family family, absl::FunctionRef<absl::Status(absl::string_view)> visit) {
    rocksdb::ReadOptions options;
    options.fill_cache = false;
    std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, families_[family]));
    uint64_t damaged = 0;
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      if (!visit(View(it->value())).ok()) ++damaged;
    }
    if (damaged > 0) LogWarning(damaged, " damaged records skipped in ", kFamilyNames[family]);
    return ToStatus(it->status(), "cannot read records");
  }

  // Counts only: histograms and timers of every read would cost more than they tell.
  const std::shared_ptr<rocksdb::Statistics> statistics_ = MakeStatistics();
  std::string data_dir_;
  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;
  std::atomic<uint32_t> layers_{0};
  std::atomic<size_t> block_bytes_{0};
};

}  // namespace

absl::StatusOr<std::unique_ptr<KvTier>> OpenRocksTier(const RocksTierOptions& options) {
  auto tier = std::make_unique<RocksTier>();
  HGA_RETURN_IF_ERROR(tier->Open(options));
  return tier;
}

}  // namespace hga
