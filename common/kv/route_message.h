// The per-layer exchange between worker and router: the same bytes in a ring slot and in a Route envelope.
//
// Little endian, 8-byte aligned parts, sizes in the headers checked by the decoders before anything is read.
//
//   request:   RequestHeader, then per block: BlockHeader, budget_groups u32 [tokens] (padded to 8 bytes),
//              queries bf16 [tokens][query_heads][head_dim] (padded to 8 bytes)
//   response:  ResponseHeader, then per block, per KV head: count u32, 0 u32, SelectedGroup [count]
#ifndef HGA_COMMON_KV_ROUTE_MESSAGE_H_
#define HGA_COMMON_KV_ROUTE_MESSAGE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/kv/bf16.h"
#include "common/kv/geometry.h"

namespace hga {

// Consecutive query tokens of one sequence, routed together. In decode, one token.
struct RouteBlock {
  uint64_t sequence_id = 0;
  uint32_t tokens = 0;       // 1 to chunk_tokens
  // Chunks [first_chunk, route_upto) may be selected; the rest the worker attends anyway (sinks before, window after).
  uint32_t first_chunk = 0;
  uint32_t route_upto = 0;
  const uint32_t* budget_groups = nullptr;  // [tokens] groups that each token may select per KV head
  const bf16* queries = nullptr;            // [tokens][query_heads][head_dim], after RoPE
};

struct RouteRequest {
  uint64_t step = 0;
  uint32_t layer = 0;
  std::vector<RouteBlock> blocks;
};

// Token t of the block attends the group if t >= first_token: it, or an earlier token of its block, asked for it.
// So a selection never depends on later tokens.
struct SelectedGroup {
  uint32_t group = 0;  // chunk * groups_per_chunk + group in chunk
  uint32_t first_token = 0;
  bool operator==(const SelectedGroup& o) const { return group == o.group && first_token == o.first_token; }
};

// Ascending by group, without repetition.
using HeadSelection = std::vector<SelectedGroup>;

struct RouteResponse {
  uint64_t step = 0;
  uint32_t layer = 0;
  std::vector<std::vector<HeadSelection>> blocks;  // [request.blocks][kv_heads]
};

// Bytes that the request needs, and an upper bound for its response.
size_t RouteRequestBytes(const KvGeometry& g, const RouteRequest& request);
size_t RouteResponseBytesMax(const KvGeometry& g, const RouteRequest& request);

// RESOURCE_EXHAUSTED if `out` is too small. Returns the bytes written.
absl::StatusOr<size_t> EncodeRouteRequest(const KvGeometry& g, const RouteRequest& request, absl::Span<uint8_t> out);
absl::StatusOr<size_t> EncodeRouteResponse(const KvGeometry& g, const RouteResponse& response,
                                           absl::Span<uint8_t> out);

// The decoded request points into `in`, which must be 8-byte aligned and outlive it. INVALID_ARGUMENT on anything that
// does not fit the geometry or the length; never reads outside `in`.
absl::StatusOr<RouteRequest> DecodeRouteRequest(const KvGeometry& g, absl::Span<const uint8_t> in);
// Checks in addition that step, layer, block count and every group's range fit `request`.
absl::StatusOr<RouteResponse> DecodeRouteResponse(const KvGeometry& g, const RouteRequest& request,
                                                  absl::Span<const uint8_t> in);

}  // namespace hga

#endif  // HGA_COMMON_KV_ROUTE_MESSAGE_H_
