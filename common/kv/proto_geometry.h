// K/V geometry on the wire.
#ifndef HGA_COMMON_KV_PROTO_GEOMETRY_H_
#define HGA_COMMON_KV_PROTO_GEOMETRY_H_

#include "common/kv/geometry.h"
#include "proto/types/v1/types.pb.h"

namespace hga {

inline void GeometryToProto(const KvGeometry& g, types::v1::KvGeometry* out) {
  out->set_layers(g.layers);
  out->set_query_heads(g.query_heads);
  out->set_kv_heads(g.kv_heads);
  out->set_head_dim(g.head_dim);
  out->set_chunk_tokens(g.chunk_tokens);
  out->set_group_tokens(g.group_tokens);
  out->set_dtype(static_cast<uint32_t>(g.dtype));
}

// Not validated.
inline KvGeometry GeometryFromProto(const types::v1::KvGeometry& in) {
  KvGeometry g;
  g.layers = in.layers();
  g.query_heads = in.query_heads();
  g.kv_heads = in.kv_heads();
  g.head_dim = in.head_dim();
  g.chunk_tokens = in.chunk_tokens();
  g.group_tokens = in.group_tokens();
  g.dtype = in.dtype() <= UINT8_MAX ? static_cast<KvDtype>(in.dtype()) : KvDtype::kFp8E4m3;  // no block has that
  return g;
}

}  // namespace hga

#endif  // HGA_COMMON_KV_PROTO_GEOMETRY_H_
