#include "kv_store/tool/compact.h"

#include <filesystem>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "rocksdb/db.h"
#include "rocksdb/options.h"
#include "rocksdb/utilities/options_util.h"

namespace hga {
namespace {

uint64_t FolderBytes(const std::string& folder) {
  uint64_t bytes = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const uint64_t size = entry.file_size(ignored);
    if (!ignored) bytes += size;
  }
  return bytes;
}

absl::Status ToStatus(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  if (absl::StrContains(status.ToString(), "lock")) {
    return absl::FailedPreconditionError(
        absl::StrCat("a kv_store serves this store (", status.ToString(), "); stop it first"));
  }
  return absl::UnavailableError(status.ToString());
}

}  // namespace

absl::StatusOr<std::pair<uint64_t, uint64_t>> CompactStore(const std::string& folder) {
  rocksdb::DBOptions options;
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  HGA_RETURN_IF_ERROR(
      ToStatus(rocksdb::LoadLatestOptions(rocksdb::ConfigOptions(), folder, &options, &families)));
  const uint64_t before = FolderBytes(folder);
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* opened = nullptr;
  HGA_RETURN_IF_ERROR(ToStatus(rocksdb::DB::Open(options, folder, families, &handles, &opened)));
  const std::unique_ptr<rocksdb::DB> db(opened);
  rocksdb::CompactRangeOptions everything;
  everything.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  everything.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
  everything.blob_garbage_collection_age_cutoff = 1.0;
  rocksdb::Status status;
  for (rocksdb::ColumnFamilyHandle* handle : handles) {
    if (status.ok()) status = db->CompactRange(everything, handle, nullptr, nullptr);
  }
  for (rocksdb::ColumnFamilyHandle* handle : handles) db->DestroyColumnFamilyHandle(handle);
  if (status.ok()) status = db->Close();
  HGA_RETURN_IF_ERROR(ToStatus(status));
  return std::make_pair(before, FolderBytes(folder));
}

}  // namespace hga
