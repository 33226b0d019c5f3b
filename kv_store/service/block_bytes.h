// Blocks as bytes, for clients that cannot map the arena.
#ifndef HGA_KV_STORE_SERVICE_BLOCK_BYTES_H_
#define HGA_KV_STORE_SERVICE_BLOCK_BYTES_H_

#include <vector>

#include "absl/functional/function_ref.h"
#include "kv_store/store/store_loop.h"
#include "proto/kv_store/v1/kv_store.pb.h"

namespace hga {

// Gives each block, in order, to `send`; ends early where that returns false. Holds slots only while it copies: a
// client that reads slowly holds none.
absl::Status SendBlocks(StoreLoop* loop, ClientId client, const std::vector<BlockName>& names,
                        absl::FunctionRef<bool(const kv_store::v1::FetchedBytes&)> send);

// Reads a chunk and its blocks from `next`, checks each block and commits the chunk; the caller has no holds
// afterwards.
absl::StatusOr<CommitOutcome> ReceiveBlocks(StoreLoop* loop,
                                            absl::FunctionRef<bool(kv_store::v1::PutBlocksRequest*)> next);

}  // namespace hga

#endif  // HGA_KV_STORE_SERVICE_BLOCK_BYTES_H_
