// Wire messages to the store's types: everything that a peer sends is checked here or in BlockStore.
#ifndef HGA_KV_STORE_SERVICE_CONVERT_H_
#define HGA_KV_STORE_SERVICE_CONVERT_H_

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "common/kv/geometry.h"
#include "kv_store/store/block_store.h"
#include "proto/kv_store/v1/kv_store.pb.h"

namespace hga {

// Nothing if the client attaches without an arena (no layers).
std::optional<KvGeometry> FromProto(const types::v1::KvGeometry& geometry);
absl::StatusOr<std::vector<ChunkHash>> FromProto(
    const google::protobuf::RepeatedPtrField<std::string>& hashes);
absl::StatusOr<std::vector<BlockName>> FromProto(
    const google::protobuf::RepeatedPtrField<types::v1::BlockName>& blocks);
absl::StatusOr<std::vector<BlockHeads>> FromProto(const kv_store::v1::FetchRequest& request);
// Moves the summary out of `request`.
absl::StatusOr<CommitArgs> FromProto(kv_store::v1::CommitRequest* request);
void ToProto(const StoreStats& stats, uint64_t disk_bytes, kv_store::v1::GetStatsResponse* out);

}  // namespace hga

#endif  // HGA_KV_STORE_SERVICE_CONVERT_H_
