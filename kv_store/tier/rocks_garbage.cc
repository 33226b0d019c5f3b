#include "kv_store/tier/rocks_garbage.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "kv_store/tier/rocks_stats.h"

namespace hga {
namespace {

constexpr uint64_t kMinGarbage = 64ull << 20;
constexpr uint64_t kSpareBytes = 64ull << 20;   // of the file system, left to others
constexpr uint64_t kBytesAtOnce = 512ull << 20;  // moved in one turn of a compaction
constexpr absl::Duration kLastReaders = absl::Seconds(5), kLookAgain = absl::Milliseconds(10);

std::vector<rocksdb::BlobMetaData> OldestFirst(rocksdb::DB* db, rocksdb::ColumnFamilyHandle* family) {
  rocksdb::ColumnFamilyMetaData data;
  db->GetColumnFamilyMetaData(family, &data);
  std::sort(data.blob_files.begin(), data.blob_files.end(),
            [](const auto& a, const auto& b) { return a.blob_file_number < b.blob_file_number; });
  return data.blob_files;
}

uint64_t LiveBytes(const rocksdb::BlobMetaData& file) { return file.total_blob_bytes - file.garbage_blob_bytes; }

// Makes a compaction move what is live in the oldest `files` of `all` blob files.
void MoveOldest(size_t files, size_t all, rocksdb::CompactRangeOptions* options) {
  options->blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
  options->blob_garbage_collection_age_cutoff =
      std::min(1.0, (static_cast<double>(files) + 0.5) / static_cast<double>(all));
}

rocksdb::CompactRangeOptions WholeIndex() {
  rocksdb::CompactRangeOptions options;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForceOptimized;
  options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kDisable;
  return options;
}

uint64_t FreeBytes(const std::string& folder) {
  struct statvfs device {};
  if (::statvfs(folder.c_str(), &device) != 0) return std::numeric_limits<uint64_t>::max();
  return uint64_t{device.f_bavail} * device.f_frsize;
}

bool IsThere(const rocksdb::BlobMetaData& file) {
  struct stat info {};
  return ::stat(absl::StrCat(file.blob_file_path, "/", file.blob_file_name).c_str(), &info) == 0;
}

absl::Status ToStatus(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = absl::StrCat("cannot compact: ", status.ToString());
  if (status.IsManualCompactionPaused()) return absl::CancelledError("the compaction was ended");
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(text);
  return status.IsCorruption() ? absl::DataLossError(text) : absl::UnavailableError(text);
}

}  // namespace

RocksGarbage::~RocksGarbage() { db_->DisableManualCompaction(); }

void RocksGarbage::Deleted(uint64_t bytes) {
  deleted_bytes_ += bytes;
  if (deleted_bytes_ < std::max(kMinGarbage, FolderBytes(folder_) / 8)) return;
  deleted_bytes_ = 0;
  turns_.Post([this] { Collect(0); });
}

absl::Status RocksGarbage::MakeRoom(uint64_t wanted) {
  if (disk_bytes_ == 0 || FolderBytes(folder_) + wanted <= disk_bytes_) return absl::OkStatus();
  deleted_bytes_ = 0;
  turns_.Run([&] { Collect(wanted); });
  const uint64_t used = FolderBytes(folder_);
  if (used + wanted <= disk_bytes_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("--disk_bytes ", disk_bytes_, " is used up: ", used,
                                                   " bytes on disk, ", wanted, " more wanted"));
}

// First only the indexes are compacted, which drops blob files that are dead as a whole; then live blobs of the oldest
// files are moved, until garbage is a sixth or `wanted` bytes are free.
void RocksGarbage::Collect(uint64_t wanted) {
  rocksdb::CompactRangeOptions compact = WholeIndex();
  for (rocksdb::ColumnFamilyHandle* family : families_) {
    if (!OldestFirst(db_, family).empty()) Run(compact, family);
  }
  const auto files = OldestFirst(db_, blocks_);
  uint64_t garbage = 0, total = 0;
  for (const auto& file : files) {
    garbage += file.garbage_blob_bytes;
    total += file.blob_file_size;
  }
  const uint64_t used = FolderBytes(folder_);
  const bool full = wanted > 0 && used + wanted > disk_bytes_;
  const uint64_t goal = full ? std::min(garbage, used + wanted - disk_bytes_)
                             : garbage > total / 3 ? garbage - total / 6 : 0;
  if (goal == 0) return;
  size_t count = 0;
  for (uint64_t freed = 0; count < files.size() && freed < goal; ++count) freed += files[count].garbage_blob_bytes;
  MoveOldest(count, files.size(), &compact);
  Run(compact, blocks_);
  LogInfo("disk: ", used, " bytes before, ", FolderBytes(folder_), " after collecting garbage");
}

absl::Status RocksGarbage::Compact(Compaction* compaction) {
  deleted_bytes_ = 0;
  for (rocksdb::ColumnFamilyHandle* family : families_) {
    HGA_RETURN_IF_ERROR(ToStatus(turns_.Run([&] { return CompactIndex(family, compaction); })));
  }
  std::vector<Plan> plans;
  for (rocksdb::ColumnFamilyHandle* family : families_) {
    uint64_t last = 0, upto_last = 0, bytes = 0;
    for (const auto& file : OldestFirst(db_, family)) {
      bytes += file.blob_file_size;
      if (file.garbage_blob_bytes == 0) continue;
      last = file.blob_file_number;
      upto_last = bytes;
    }
    compaction->all_bytes += upto_last;
    if (last != 0) plans.push_back({family, last});
  }
  for (const Plan& plan : plans) HGA_RETURN_IF_ERROR(MoveLive(plan, compaction));
  return absl::OkStatus();
}

rocksdb::Status RocksGarbage::CompactIndex(rocksdb::ColumnFamilyHandle* family, Compaction* compaction) {
  rocksdb::CompactRangeOptions compact = WholeIndex();
  compact.canceled = &compaction->cancelled;
  return Run(compact, family);
}

// Returns when the room is back. RocksDB deletes a file that a reader had open meanwhile with its next compaction or
// flush; here that may be long, so it is told to look again.
rocksdb::Status RocksGarbage::Run(const rocksdb::CompactRangeOptions& options, rocksdb::ColumnFamilyHandle* family) {
  auto gone = OldestFirst(db_, family);
  const rocksdb::Status status = db_->CompactRange(options, family, nullptr, nullptr);
  std::set<uint64_t> left;
  for (const auto& file : OldestFirst(db_, family)) left.insert(file.blob_file_number);
  const auto is_left = [&](const auto& file) { return left.count(file.blob_file_number) > 0; };
  gone.erase(std::remove_if(gone.begin(), gone.end(), is_left), gone.end());
  const absl::Time deadline = absl::Now() + kLastReaders;
  while (std::any_of(gone.begin(), gone.end(), IsThere) && absl::Now() < deadline) {
    absl::SleepFor(kLookAgain);
    db_->EnableFileDeletions(/*force=*/true);
  }
  return status;
}

absl::Status RocksGarbage::MoveLive(const Plan& plan, Compaction* compaction) {
  for (bool more = true; more;) {
    if (compaction->cancelled) return ToStatus(rocksdb::Status::Incomplete(rocksdb::Status::kManualCompactionPaused));
    auto moved = turns_.Run([&] { return MoveSome(plan, compaction); });
    HGA_RETURN_IF_ERROR(moved.status());
    more = *moved;
  }
  return absl::OkStatus();
}

// One turn; false: nothing is left of the plan.
absl::StatusOr<bool> RocksGarbage::MoveSome(const Plan& plan, Compaction* compaction) {
  const auto files = OldestFirst(db_, plan.family);
  size_t count = 0;
  uint64_t live = 0, bytes = 0;
  for (; count < files.size() && files[count].blob_file_number <= plan.last_file; ++count) {
    if (count > 0 && live + LiveBytes(files[count]) > kBytesAtOnce) break;
    live += LiveBytes(files[count]);
    bytes += files[count].blob_file_size;
  }
  if (count == 0) return false;
  if (FreeBytes(folder_) < live + kSpareBytes) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot compact: ", live,
                                                     " bytes have to be written before others "
                                                     "are free, and the disk has ",
                                                     FreeBytes(folder_)));
  }
  rocksdb::CompactRangeOptions compact = WholeIndex();
  compact.canceled = &compaction->cancelled;
  MoveOldest(count, files.size(), &compact);
  const uint64_t newest_moved = files[count - 1].blob_file_number;
  const rocksdb::Status status = Run(compact, plan.family);
  if (!status.ok()) db_->Resume();  // leaves the read-only state that a full disk puts the database into
  HGA_RETURN_IF_ERROR(ToStatus(status));
  compaction->done_bytes += bytes;
  const auto left = OldestFirst(db_, plan.family);
  if (!left.empty() && left.front().blob_file_number <= newest_moved) {
    LogWarning("compaction: a blob file cannot be emptied", {{"file", left.front().blob_file_name}});
    return false;
  }
  return true;
}

}  // namespace hga
