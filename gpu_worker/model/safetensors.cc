#include "gpu_worker/model/safetensors.h"

#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/json_file.h"

namespace hga {
namespace {

// The index of a checkpoint of 40,000 tensors has 4 MB.
constexpr size_t kMaxIndexBytes = 32 << 20;
constexpr size_t kMaxShards = 4096;

absl::Status Broken(const std::string& path, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("safetensors file ", path, ": ", what));
}

// Tensor -> shard, as the index gives it.
using ShardMap = std::map<std::string, std::string>;

absl::StatusOr<ShardMap> ReadIndex(const std::string& path) {
  HGA_ASSIGN_OR_RETURN(const nlohmann::json index, ReadJsonFile(path, kMaxIndexBytes));
  const JsonFields fields(index, path);
  HGA_ASSIGN_OR_RETURN(const nlohmann::json* map, fields.GetObject("weight_map"));
  if (map == nullptr || map->empty()) return fields.Wrong("'weight_map' is missing or empty");
  ShardMap shards;
  for (const auto& [name, shard] : map->items()) {
    const std::string file = shard.is_string() ? shard.get<std::string>() : "";
    // A plain name: an index must not reach files outside its folder.
    if (file.empty() || absl::StrContains(file, '/') || !absl::EndsWith(file, ".safetensors")) {
      return fields.Wrong(absl::StrCat("weight_map['", absl::CEscape(name), "'] is '",
                                       absl::CEscape(file.substr(0, 80)),
                                       "', expected the name of a .safetensors file beside it"));
    }
    shards[name] = file;
  }
  return shards;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsCheckpoint>> SafetensorsCheckpoint::Open(const std::string& folder) {
  std::unique_ptr<SafetensorsCheckpoint> checkpoint(new SafetensorsCheckpoint(folder));
  const std::string single = folder + "/model.safetensors", index = folder + "/model.safetensors.index.json";
  absl::Status status = checkpoint->AddFile(single);
  if (absl::IsNotFound(status)) {
    status = checkpoint->AddShards(index);
    if (absl::IsNotFound(status) && checkpoint->files_.empty() && !absl::StrContains(status.message(), "shard")) {
      return absl::NotFoundError(absl::StrCat("folder ", folder, " holds neither model.safetensors nor ",
                                              "model.safetensors.index.json"));
    }
  }
  if (!status.ok()) return status;
  return checkpoint;
}

absl::Status SafetensorsCheckpoint::AddFile(const std::string& path) {
  HGA_ASSIGN_OR_RETURN(auto file, ReadOnlyFile::Open(path));
  uint64_t header = 0;
  if (file->size() < sizeof(header)) return Broken(path, "is shorter than its header");
  std::memcpy(&header, file->data(), sizeof(header));
  if (header > kMaxSafetensorsHeaderBytes) {
    return Broken(path, absl::StrCat("claims a header of ", header, " bytes, expected at most ",
                                     kMaxSafetensorsHeaderBytes, "; is it a safetensors file?"));
  }
  if (header > file->size() - sizeof(header)) {
    return Broken(path, absl::StrCat("has a header of ", header, " bytes but only ", file->size(),
                                     " in all (truncated download?)"));
  }
  const uint64_t start = sizeof(header) + header;
  auto stored = ParseSafetensorsHeader(file->text().substr(sizeof(header), header), start, file->size() - start);
  if (!stored.ok()) return Broken(path, std::string(stored.status().message()));
  for (StoredTensor& t : *stored) {
    const Tensor tensor{std::move(t.dtype), std::move(t.shape), file->data() + start + t.begin, t.end - t.begin,
                        &file->path()};
    const auto [other, added] = tensors_.emplace(t.name, tensor);
    if (!added) {
      return Broken(path, absl::StrCat("tensor '", absl::CEscape(t.name), "' stands in ", *other->second.file, " too"));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status SafetensorsCheckpoint::AddShards(const std::string& index_path) {
  HGA_ASSIGN_OR_RETURN(const ShardMap shard_of, ReadIndex(index_path));
  std::set<std::string> shards;
  for (const auto& [name, shard] : shard_of) shards.insert(shard);
  if (shards.size() > kMaxShards) {
    return Broken(index_path, absl::StrCat("names ", shards.size(), " shards, expected at most ", kMaxShards));
  }
  for (const std::string& shard : shards) {
    const absl::Status status = AddFile(absl::StrCat(folder_, "/", shard));
    if (absl::IsNotFound(status)) {
      return absl::NotFoundError(absl::StrCat("shard ", folder_, "/", shard, " is missing; ", index_path, " names ",
                                              shards.size(), " shards, all of which are needed"));
    }
    HGA_RETURN_IF_ERROR(status);
  }
  for (const auto& [name, shard] : shard_of) {
    const Tensor* tensor = Find(name);
    if (tensor == nullptr || *tensor->file != absl::StrCat(folder_, "/", shard)) {
      return Broken(index_path,
                    absl::StrCat("tensor '", absl::CEscape(name), "' is not in ", shard, ", where the index has it"));
    }
  }
  return absl::OkStatus();
}

const SafetensorsCheckpoint::Tensor* SafetensorsCheckpoint::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

uint64_t SafetensorsCheckpoint::file_bytes() const {
  uint64_t bytes = 0;
  for (const auto& file : files_) bytes += file->size();
  return bytes;
}

}  // namespace hga
