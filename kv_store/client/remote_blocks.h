// The blocks of a client that cannot map the store's arena: held in memory of its own, moved as bytes over gRPC.
#ifndef HGA_KV_STORE_CLIENT_REMOTE_BLOCKS_H_
#define HGA_KV_STORE_CLIENT_REMOTE_BLOCKS_H_

#include <atomic>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "common/kv/geometry.h"
#include "kv_store/client/kv_client.h"
#include "proto/kv_store/v1/kv_store.grpc.pb.h"

namespace hga {

// Thread-safe. Holds may outlive it.
class RemoteBlocks {
 public:
  // `limit_bytes`: of all blocks reserved or held at a time.
  RemoteBlocks(const KvGeometry& geometry, uint64_t limit_bytes);

  // INVALID_ARGUMENT: room for less than one chunk, or blocks too large for a message.
  static absl::Status Check(const KvGeometry& geometry, uint64_t limit_bytes);

  // RESOURCE_EXHAUSTED: all the memory is held.
  absl::StatusOr<std::vector<HeldBlock>> Reserve(uint32_t count);
  // One call of `take` per block asked for, in order.
  absl::Status Fetch(kv_store::v1::KvStore::Stub* stub, const kv_store::v1::FetchRequest& request,
                     absl::FunctionRef<void(FetchedBlock)> take);
  // Hands over a chunk; true: the store had it already.
  absl::StatusOr<bool> Put(kv_store::v1::KvStore::Stub* stub, const kv_store::v1::CommitRequest& chunk,
                           const std::vector<HeldBlock>& blocks) const;

 private:
  absl::StatusOr<HeldBlock> Make();
  FetchedBlock Receive(const kv_store::v1::FetchedBytes& message, const types::v1::BlockName& name);

  const KvGeometry geometry_;
  const uint64_t limit_;                                // blocks
  const std::shared_ptr<std::atomic<uint64_t>> in_use_;  // blocks; shared with the holds
};

}  // namespace hga

#endif  // HGA_KV_STORE_CLIENT_REMOTE_BLOCKS_H_
