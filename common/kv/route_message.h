// The per-layer exchange between worker and router: the same bytes in a ring slot and in a Route envelope.
//
// Little endian, 8-byte aligned parts, sizes in the headers checked by the decoders before anything is read.
//
//   request:   RequestHeader, then per block: BlockHeader, budget_keys u32 [tokens], queries bf16
//              [tokens][query_heads][head_dim], and if it is there attended f32 [tokens][query_heads], each part padded
//              to 8 bytes
//   response:  ResponseHeader, then per block: per KV head count u32, 0 u32, SelectedChunk [count]; if the block asked
//              for it missed f32 [tokens][query_heads], padded to 8 bytes
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

inline constexpr uint32_t kEverything = UINT32_MAX;

// Consecutive query tokens of one sequence, routed together. In decode, one token.
struct RouteBlock {
  uint64_t sequence_id = 0;
  uint32_t tokens = 0;       // 1 to chunk_tokens
  // The keys from position first_key up to chunk route_upto may be selected; the rest the worker attends anyway (sinks
  // before, window after).
  uint32_t first_key = 0;
  uint32_t route_upto = 0;
  // [tokens] Most keys per KV head that the selections of the tokens up to this one may hold together: what a token
  // attends by routing, counted after the union with the tokens before it. kEverything: all keys of the range.
  const uint32_t* budget_keys = nullptr;
  const bf16* queries = nullptr;  // [tokens][query_heads][head_dim], after RoPE
  // The KV heads of the layer compete for kv_heads * budget_keys; else each has its own.
  bool shared = false;
  // [tokens][query_heads] log of the sum of exp(q.k / sqrt(head_dim)) over what the worker attends anyway: what a key
  // is worth shows only beside it. nullptr: not known, a query head's attention is taken to lie in the range alone.
  const float* attended = nullptr;
  // Keys with a smaller share of the attention (mean over the query heads of their KV head) are not selected. 0 to 1.
  float least_share = 0;
  // Selection ends when it and what is attended anyway have this share of the attention. 0 to 1; 1: the budget decides.
  float top_p = 1;
  // Asks for what is missed, RouteResponse::missed.
  bool residual = false;

  bool empty(const KvGeometry& g) const { return uint64_t{route_upto} * g.chunk_tokens <= first_key; }
  uint32_t first_chunk(const KvGeometry& g) const { return first_key / g.chunk_tokens; }
  // Keys that may be selected.
  uint32_t keys(const KvGeometry& g) const { return empty(g) ? 0 : route_upto * g.chunk_tokens - first_key; }
};

struct RouteRequest {
  uint64_t step = 0;
  uint32_t layer = 0;
  std::vector<RouteBlock> blocks;
};

// Keys of one chunk. Token t of the block attends them if t >= first_token: it, or an earlier token of its block, asked
// for them. So a selection never depends on later tokens.
struct SelectedChunk {
  uint32_t chunk = 0;
  uint32_t first_token = 0;
  uint64_t mask = 0;  // bit i: the chunk's token i
  bool operator==(const SelectedChunk& o) const {
    return chunk == o.chunk && first_token == o.first_token && mask == o.mask;
  }
};

// Ascending by chunk, then by first_token. No key twice, no empty mask.
using HeadSelection = std::vector<SelectedChunk>;

// The selection of all keys of the block's range, for every token.
void SelectAll(const KvGeometry& g, const RouteBlock& block, HeadSelection* head);
// Bits of the chunk's tokens at or after position first_key.
uint64_t RoutableMask(const KvGeometry& g, uint32_t chunk, uint32_t first_key);

struct RouteResponse {
  uint64_t step = 0;
  uint32_t layer = 0;
  std::vector<std::vector<HeadSelection>> blocks;  // [request.blocks][kv_heads]
  // [request.blocks] [tokens][query_heads]; empty for those that did not ask. About the log of the sum of
  // exp(q.k / sqrt(head_dim)) over the keys of the range that the token does not attend; -infinity: nothing, or the
  // summaries cannot tell. Never NaN or +infinity.
  std::vector<std::vector<float>> missed;
};

// Bytes that the request needs, that a response needs, and an upper bound for the response to a request.
size_t RouteRequestBytes(const KvGeometry& g, const RouteRequest& request);
size_t RouteResponseBytes(const RouteResponse& response);
size_t RouteResponseBytesMax(const KvGeometry& g, const RouteRequest& request);

// RESOURCE_EXHAUSTED if `out` is too small. Returns the bytes written.
absl::StatusOr<size_t> EncodeRouteRequest(const KvGeometry& g, const RouteRequest& request, absl::Span<uint8_t> out);
absl::StatusOr<size_t> EncodeRouteResponse(const KvGeometry& g, const RouteResponse& response,
                                           absl::Span<uint8_t> out);

// The decoded request points into `in`, which must be 8-byte aligned and outlive it. INVALID_ARGUMENT on anything that
// does not fit the geometry or the length; never reads outside `in`.
absl::StatusOr<RouteRequest> DecodeRouteRequest(const KvGeometry& g, absl::Span<const uint8_t> in);
// Checks in addition that step, layer, block count and every selected key fit `request`.
absl::StatusOr<RouteResponse> DecodeRouteResponse(const KvGeometry& g, const RouteRequest& request,
                                                  absl::Span<const uint8_t> in);

}  // namespace hga

#endif  // HGA_COMMON_KV_ROUTE_MESSAGE_H_
