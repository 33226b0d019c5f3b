// What crosses the ring between a client that maps the arena and kv_store: in one exchange, holds given up and blocks
// fetched. Both sides read a message once and check all of it before they act on it.
//
// Little endian:
//   request: u64 serial, u32 releases, u32 blocks; u32 slot [releases];
//            (16 bytes chunk hash, u32 layer, u64 heads) [blocks]
//   answer:  u64 serial of the request, u32 blocks, u32 0; (u32 absl::StatusCode, u32 slot, u32 tier) [blocks]
#ifndef HGA_KV_STORE_RING_FETCH_MESSAGE_H_
#define HGA_KV_STORE_RING_FETCH_MESSAGE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/kv/block_heads.h"

namespace hga {

// Of a ring's slot: some 2,300 blocks. What is larger goes by gRPC, where the call's own cost no longer counts.
inline constexpr uint64_t kFetchRingBytes = uint64_t{64} << 10;

struct RingFetch {
  uint64_t serial = 0;
  std::vector<uint32_t> releases;  // slots
  std::vector<BlockHeads> blocks;
};

struct RingFetched {
  absl::StatusCode code = absl::StatusCode::kOk;
  uint32_t slot = 0;  // valid if code is kOk
  bool from_disk = false;
};

// Whether the request and its answer fit into a slot.
bool FitsRing(size_t releases, size_t blocks);

// The size of the message. RESOURCE_EXHAUSTED: it does not fit into `slot`.
absl::StatusOr<size_t> EncodeRingFetch(const RingFetch& request, absl::Span<uint8_t> slot);
absl::StatusOr<size_t> EncodeRingFetched(uint64_t serial, absl::Span<const RingFetched> blocks,
                                         absl::Span<uint8_t> slot);
// INVALID_ARGUMENT: anything else than such a message, or, for the answer, than one to this request.
absl::StatusOr<RingFetch> DecodeRingFetch(absl::Span<const uint8_t> message);
absl::StatusOr<std::vector<RingFetched>> DecodeRingFetched(const RingFetch& request, absl::Span<const uint8_t> message);

}  // namespace hga

#endif  // HGA_KV_STORE_RING_FETCH_MESSAGE_H_
