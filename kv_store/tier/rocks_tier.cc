#include "kv_store/tier/rocks_tier.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/kv/block_parts.h"
#include "kv_store/tier/record_codec.h"
#include "kv_store/tier/rocks_garbage.h"
#include "kv_store/tier/rocks_options.h"
#include "kv_store/tier/rocks_stats.h"
#include "rocksdb/db.h"
#include "rocksdb/write_batch.h"

namespace hga {
namespace {

enum Family { kDefault, kBlocks, kChunks, kSummaries, kSessions, kFamilies };
constexpr const char* kFamilyNames[kFamilies] = {"default", "blocks", "chunks", "summaries", "sessions"};
constexpr char kGeometryKey[] = "geometry";
constexpr char kUnfinishedKey[] = "unfinished";
constexpr size_t kBytesPerMultiGet = 1 << 20;       // what one reader holds beside the slots
constexpr uint64_t kSpareBytes = 8ull << 20;        // index, log and manifest grow as well
constexpr char kVersionKey[] = "version";

absl::Status ToStatus(const rocksdb::Status& status, const char* what) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = absl::StrCat(what, ": ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(text);
  if (status.IsCorruption()) return absl::DataLossError(text);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(text);
  return absl::UnavailableError(text);
}

absl::string_view View(const rocksdb::Slice& slice) { return absl::string_view(slice.data(), slice.size()); }

class RocksTier : public KvTier {
 public:
  absl::Status Open(const RocksTierOptions& options) {
    if (!options.read_only && ::mkdir(options.data_dir.c_str(), 0700) != 0 && errno != EEXIST) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot make --data_dir ", options.data_dir));
    }
    rocksdb::Status status = OpenDatabase(options, options.direct_io);
    if (options.direct_io && status.IsInvalidArgument()) {
      LogWarning("no direct I/O, reading through the page cache",
                 {{"data_dir", options.data_dir}, {"error", status.ToString()}});
      status = OpenDatabase(options, false);
    }
    if (status.ok()) {
      HGA_RETURN_IF_ERROR(CheckVersion(options.data_dir));
      return options.read_only ? absl::OkStatus() : DeleteUnfinished();
    }
    if (absl::StrContains(status.ToString(), "lock")) {
      return absl::FailedPreconditionError(absl::StrCat(
          "--data_dir ", options.data_dir, " is in use by another kv_store (", status.ToString(), ")"));
    }
    return ToStatus(status, "cannot open --data_dir");
  }

  ~RocksTier() override {
    if (db_ == nullptr) return;
    garbage_.reset();
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
    if (!step.put_chunks.empty()) {
      HGA_RETURN_IF_ERROR(garbage_->MakeRoom(step.put_chunks.size() * chunk_bytes() + kSpareBytes));
    }
    const bool past_log = step.put_chunks.size() * chunk_bytes() >= options_.past_log_bytes;
    if (past_log) HGA_RETURN_IF_ERROR(WritePastLog(step));
    rocksdb::WriteBatch batch;
    std::set<ChunkHash> put;
    for (const ChunkWrite& chunk : step.put_chunks) put.insert(chunk.record->hash);
    for (const ChunkHash& chunk : step.delete_chunks) {
      if (put.count(chunk) == 0) AddDelete(chunk, &batch);
    }
    for (const ChunkHash& chunk : step.drop_blocks) {
      if (put.count(chunk) == 0) HGA_RETURN_IF_ERROR(AddDropBlocks(chunk, &batch));
    }
    for (const ChunkHash& chunk : unfinished_) {  // of a step that failed and was given up
      if (put.count(chunk) == 0) AddDeleteBlocks(chunk, &batch);
    }
    for (const std::string& name : step.delete_sessions) batch.Delete(families_[kSessions], name);
    for (const ChunkRecord& record : step.put_tokens)
      batch.Put(families_[kChunks], record.hash.ToBytes(), EncodeChunk(record));
    for (const ChunkWrite& chunk : step.put_chunks) {
      if (!past_log) AddBlocks(chunk, &batch);
      batch.Put(families_[kChunks], chunk.record->hash.ToBytes(), EncodeChunk(*chunk.record));
    }
    for (const SessionRecord& s : step.put_sessions)
      batch.Put(families_[kSessions], s.name, EncodeSession(s));
    if (!unfinished_.empty()) batch.Delete(families_[kDefault], kUnfinishedKey);
    HGA_RETURN_IF_ERROR(WriteSynced(&batch));
    unfinished_.clear();
    garbage_->Deleted((step.delete_chunks.size() + step.drop_blocks.size()) * chunk_bytes());
    return absl::OkStatus();
  }

  void ReadBlocks(absl::Span<BlockRead> reads) override {
    while (!reads.empty()) {
      size_t count = 0, parts = 0;
      do {
        parts += HeadsOf(reads[count++]).size();
      } while (count < reads.size() && parts * part_bytes() < kBytesPerMultiGet);
      ReadSome(reads.first(count), parts);
      reads.remove_prefix(count);
    }
  }

  absl::StatusOr<SummaryRecord> ReadSummary(const ChunkHash& chunk) override {
    HGA_ASSIGN_OR_RETURN(const std::string bytes, Get(kSummaries, chunk.ToBytes()));
    return DecodeSummary(bytes);
  }

  std::vector<absl::StatusOr<ChunkRecord>> ReadChunks(absl::Span<const ChunkHash> chunks) override {
    std::vector<std::string> keys;
    for (const ChunkHash& chunk : chunks) keys.push_back(chunk.ToBytes());
    const std::vector<rocksdb::Slice> slices(keys.begin(), keys.end());
    std::vector<rocksdb::PinnableSlice> values(keys.size());
    std::vector<rocksdb::Status> statuses(keys.size());
    db_->MultiGet(rocksdb::ReadOptions(), families_[kChunks], keys.size(), slices.data(), values.data(),
                  statuses.data());
    std::vector<absl::StatusOr<ChunkRecord>> records;
    for (size_t i = 0; i < keys.size(); ++i) {
      if (!statuses[i].ok()) {
        records.push_back(ToStatus(statuses[i], "cannot read a chunk's record"));
      } else {
        records.push_back(DecodeChunk(View(values[i])));
      }
    }
    return records;
  }

  absl::Status ForEachChunk(absl::FunctionRef<void(Scanned<ChunkRecord>)> visit) override {
    return Scan<ChunkRecord>(kChunks, DecodeChunk, visit);
  }

  absl::Status ForEachSession(absl::FunctionRef<void(Scanned<SessionRecord>)> visit) override {
    return Scan<SessionRecord>(kSessions, DecodeSession, visit);
  }

  absl::Status Compact(Compaction* compaction) override { return garbage_->Compact(compaction); }

  TierStats Stats() override {
    TierStats stats = RocksStats(db_.get(), families_, *shared_.statistics, options_.data_dir);
    stats.garbage_bytes += garbage_->deleted_bytes();
    stats.memory_bytes = shared_.cache->GetUsage();
    stats.memory_budget_bytes = options_.memory_bytes;
    return stats;
  }

 private:
  rocksdb::Status OpenDatabase(const RocksTierOptions& options, bool direct_io) {
    options_ = options;
    shared_ = MakeRocksShared(options.memory_bytes);
    std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
    for (int i = 0; i < kFamilies; ++i) {
      const bool blobs = i == kBlocks || i == kSummaries;
      descriptors.emplace_back(kFamilyNames[i], blobs ? BlobFamily(shared_) : SmallFamily(shared_));
    }
    rocksdb::DB* db = nullptr;
    const rocksdb::DBOptions database = DatabaseOptions(shared_, direct_io);
    const rocksdb::Status status =
        options.read_only ? rocksdb::DB::OpenForReadOnly(database, options.data_dir, descriptors, &families_, &db)
                          : rocksdb::DB::Open(database, options.data_dir, descriptors, &families_, &db);
    db_.reset(db);
    if (status.ok()) {
      garbage_ =
          std::make_unique<RocksGarbage>(db, families_, families_[kBlocks], options.data_dir, options.disk_bytes);
    }
    return status;
  }

  uint64_t chunk_bytes() const { return layers_ * block_bytes_; }
  size_t part_bytes() const { return block_bytes_ / kv_heads_; }

  absl::Status WriteSynced(rocksdb::WriteBatch* batch) {
    rocksdb::WriteOptions sync;
    sync.sync = true;
    return Checked(db_->Write(sync, batch));
  }

  absl::Status Checked(const rocksdb::Status& status) {
    if (!status.ok()) db_->Resume();  // leaves the read-only state that a full disk puts the database into
    return ToStatus(status, "cannot write to disk");
  }

  // Blocks and summaries into blob files, named as unfinished until their records are written.
  absl::Status WritePastLog(const WriteStep& step) {
    for (const ChunkWrite& chunk : step.put_chunks) unfinished_.insert(chunk.record->hash);
    rocksdb::WriteBatch names;
    names.Put(families_[kDefault], kUnfinishedKey, EncodeChunkList({unfinished_.begin(), unfinished_.end()}));
    HGA_RETURN_IF_ERROR(WriteSynced(&names));
    rocksdb::WriteOptions past_log;
    past_log.disableWAL = true;
    rocksdb::WriteBatch batch;
    for (const ChunkWrite& chunk : step.put_chunks) {
      batch.Clear();  // keeps its memory, one chunk's
      AddBlocks(chunk, &batch);
      HGA_RETURN_IF_ERROR(Checked(db_->Write(past_log, &batch)));
    }
    return Checked(db_->Flush(rocksdb::FlushOptions(), {families_[kBlocks], families_[kSummaries]}));
  }

  // After a crash: blocks whose records were never written.
  absl::Status DeleteUnfinished() {
    const auto bytes = Get(kDefault, kUnfinishedKey);
    if (absl::IsNotFound(bytes.status())) return absl::OkStatus();
    HGA_RETURN_IF_ERROR(bytes.status());
    HGA_ASSIGN_OR_RETURN(const std::vector<ChunkHash> chunks, DecodeChunkList(*bytes));
    HGA_RETURN_IF_ERROR(GetGeometry().status());
    rocksdb::WriteBatch batch;
    for (const ChunkHash& chunk : chunks) AddDeleteBlocks(chunk, &batch);
    batch.Delete(families_[kDefault], kUnfinishedKey);
    LogInfo(chunks.size(), " chunks were being written when the store ended; what is there of them is deleted");
    return WriteSynced(&batch);
  }

  // A new store gets this version; one of another version is left as it is.
  absl::Status CheckVersion(const std::string& folder) {
    uint32_t version = 1;  // stores before the version record
    const auto stored = Get(kDefault, kVersionKey);
    if (stored.ok()) {
      HGA_ASSIGN_OR_RETURN(version, DecodeStoreVersion(*stored));
    } else if (absl::IsNotFound(stored.status()) && absl::IsNotFound(Get(kDefault, kGeometryKey).status())) {
      if (options_.read_only) return absl::OkStatus();
      rocksdb::WriteOptions sync;
      sync.sync = true;
      return ToStatus(db_->Put(sync, families_[kDefault], kVersionKey, EncodeStoreVersion(kStoreVersion)),
                      "cannot write the version");
    } else if (!absl::IsNotFound(stored.status())) {
      return stored.status();
    }
    if (version == kStoreVersion) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        "the store at ", folder, " has format version ", version, ", this kv_store reads version ", kStoreVersion,
        " only and changes nothing of it; start the kv_store that wrote it, or move the folder away"));
  }

  void UseGeometry(const KvGeometry& geometry) {
    layers_ = geometry.layers;
    kv_heads_ = geometry.kv_heads;
    head_dim_ = geometry.head_dim;
    holds_bf16_ = geometry.dtype == KvDtype::kBf16;
    block_bytes_ = geometry.block_bytes();
  }

  void AddDelete(const ChunkHash& chunk, rocksdb::WriteBatch* batch) {
    batch->Delete(families_[kChunks], chunk.ToBytes());
    AddDeleteBlocks(chunk, batch);
  }

  // A record that cannot be read stays as it is: whoever loads it finds out.
  absl::Status AddDropBlocks(const ChunkHash& chunk, rocksdb::WriteBatch* batch) {
    AddDeleteBlocks(chunk, batch);
    auto bytes = Get(kChunks, chunk.ToBytes());
    if (absl::IsNotFound(bytes.status())) return absl::OkStatus();
    HGA_RETURN_IF_ERROR(bytes.status());
    auto record = DecodeChunk(*bytes);
    if (!record.ok()) return absl::OkStatus();
    record->checksums.clear();
    batch->Put(families_[kChunks], chunk.ToBytes(), EncodeChunk(*record));
    return absl::OkStatus();
  }

  void AddDeleteBlocks(const ChunkHash& chunk, rocksdb::WriteBatch* batch) {
    batch->Delete(families_[kSummaries], chunk.ToBytes());
    for (uint32_t layer = 0; layer < layers_; ++layer) {
      for (uint32_t head = 0; head < kv_heads_; ++head)
        batch->Delete(families_[kBlocks], PartKey({chunk, layer}, head));
    }
  }

  void AddBlocks(const ChunkWrite& chunk, rocksdb::WriteBatch* batch) {
    for (uint32_t layer = 0; layer < chunk.blocks.size(); ++layer) {
      const uint64_t checksum = chunk.record->checksums[layer];
      packed_.clear();
      std::string header = EncodeBlockHeader(checksum);
      absl::string_view data(reinterpret_cast<const char*>(chunk.blocks[layer]), block_bytes_.load());
      if (options_.kv_dtype != KvDtype::kBf16 && holds_bf16_ &&
          PackBlock(options_.kv_dtype, head_dim_, chunk.blocks[layer], block_bytes_, &packed_)) {
        header = EncodePackedHeader(checksum, options_.kv_dtype, head_dim_);
        data = packed_;
        if (chunk.stored != nullptr) (*chunk.stored)[layer] = absl::StrCat(header, packed_);
      }
      AddParts({chunk.record->hash, layer}, chunk.blocks[layer], header, data, batch);
    }
    batch->Put(families_[kSummaries], chunk.record->hash.ToBytes(), EncodeSummary(*chunk.summary));
  }

  // header, data: of the block, as it is written.
  void AddParts(const BlockName& name, const uint8_t* block, absl::string_view header, absl::string_view data,
                rocksdb::WriteBatch* batch) {
    const size_t bytes = data.size() / kv_heads_;
    for (uint32_t head = 0; head < kv_heads_; ++head) {
      const std::string key = PartKey(name, head);
      const std::string part_header = PartHeader(header, BlockChecksum(block + head * part_bytes(), part_bytes()));
      const rocksdb::Slice key_part(key);
      const rocksdb::Slice parts[2] = {part_header, rocksdb::Slice(data.data() + head * bytes, bytes)};
      batch->Put(families_[kBlocks], rocksdb::SliceParts(&key_part, 1), rocksdb::SliceParts(parts, 2));
    }
  }

  std::vector<uint32_t> HeadsOf(const BlockRead& read) const {
    std::vector<uint32_t> heads;
    for (uint32_t head = 0; head < kv_heads_; ++head) {
      if (HasHead(read.heads, head)) heads.push_back(head);
    }
    return heads;
  }

  void ReadSome(absl::Span<BlockRead> reads, size_t parts) {
    std::vector<std::string> keys;
    keys.reserve(parts);
    for (const BlockRead& read : reads) {
      for (const uint32_t head : HeadsOf(read)) keys.push_back(PartKey(read.name, head));
    }
    const std::vector<rocksdb::Slice> slices(keys.begin(), keys.end());
    std::vector<rocksdb::PinnableSlice> values(keys.size());
    std::vector<rocksdb::Status> statuses(keys.size());
    rocksdb::ReadOptions options;
    options.verify_checksums = false;  // each block carries a checksum of our own
    options.fill_cache = true;  // what names the blobs; these themselves are not cached
    db_->MultiGet(options, families_[kBlocks], keys.size(), slices.data(), values.data(), statuses.data());
    size_t at = 0;
    for (BlockRead& read : reads) {
      const std::vector<uint32_t> heads = HeadsOf(read);
      read.status = absl::OkStatus();
      std::vector<absl::string_view> found;
      for (size_t i = 0; i < heads.size(); ++i, ++at) {
        read.status.Update(ToStatus(statuses[at], "cannot read a block"));
        found.push_back(View(values[at]));
      }
      if (read.status.ok()) read.status = PutTogether(heads, found, &read);
    }
  }

  // What was copied or unpacked will be served, so that is what is checked: the block as a whole, or each part.
  absl::Status PutTogether(const std::vector<uint32_t>& heads, const std::vector<absl::string_view>& parts,
                           BlockRead* read) {
    const bool whole = heads.size() == kv_heads_;
    for (size_t i = 0; i < heads.size(); ++i) {
      uint8_t* const out = read->out + heads[i] * part_bytes();
      HGA_ASSIGN_OR_RETURN(const PartChecksums checksums, DecodePart(parts[i], part_bytes(), out));
      if (i == 0) read->checksum = checksums.block;
      if (checksums.block != read->checksum || (!whole && BlockChecksum(out, part_bytes()) != checksums.part)) {
        return absl::DataLossError("block on disk has a bad checksum");
      }
    }
    if (!whole) return absl::OkStatus();
    if (BlockChecksum(read->out, block_bytes_) != read->checksum) {
      return absl::DataLossError("block on disk has a bad checksum");
    }
    if (read->stored != nullptr) *read->stored = JoinPacked(parts);
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Get(Family family, const std::string& key) {
    std::string value;
    HGA_RETURN_IF_ERROR(ToStatus(db_->Get(rocksdb::ReadOptions(), families_[family], key, &value),
                                 absl::StrCat("no record in ", kFamilyNames[family]).c_str()));
    return value;
  }

  // A record of a version that is not known here ends the scan: nothing is to be made of this store.
  template <typename Record>
  absl::Status Scan(Family family, absl::StatusOr<Record> (*decode)(absl::string_view),
                    absl::FunctionRef<void(Scanned<Record>)> visit) {
    rocksdb::ReadOptions options;
    options.fill_cache = false;
    std::unique_ptr<rocksdb::Iterator> it(db_->NewIterator(options, families_[family]));
    for (it->SeekToFirst(); it->Valid(); it->Next()) {
      auto record = decode(View(it->value()));
      if (absl::IsFailedPrecondition(record.status())) return record.status();
      visit({it->key().ToString(), std::move(record)});
    }
    return ToStatus(it->status(), "cannot read records");
  }

  std::unique_ptr<rocksdb::DB> db_;
  std::vector<rocksdb::ColumnFamilyHandle*> families_;
  RocksTierOptions options_;  // constant after Open
  RocksShared shared_;
  std::unique_ptr<RocksGarbage> garbage_;
  std::set<ChunkHash> unfinished_;  // of Write's thread: blocks that may be there without a record
  std::string packed_;              // of Write's thread
  std::atomic<uint32_t> layers_{0}, kv_heads_{1}, head_dim_{0};
  std::atomic<bool> holds_bf16_ = true;
  std::atomic<size_t> block_bytes_{0};
};

}  // namespace

absl::StatusOr<std::unique_ptr<KvTier>> OpenRocksTier(const RocksTierOptions& options) {
  auto tier = std::make_unique<RocksTier>();
  HGA_RETURN_IF_ERROR(tier->Open(options));
  return tier;
}

}  // namespace hga
