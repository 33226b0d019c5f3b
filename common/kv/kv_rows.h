// Rows of K/V: K or V of one token of one KV head, as bf16 and packed to 8 bits, alone and in blocks.
#ifndef HGA_COMMON_KV_KV_ROWS_H_
#define HGA_COMMON_KV_KV_ROWS_H_

#include <cstddef>
#include <cstdint>

#include "common/kv/bf16.h"
#include "common/kv/geometry.h"
#include "common/kv/kv_dtype.h"

namespace hga {

// Rounds one row in place. What is no number becomes zero.
void RoundKvRow(KvDtype dtype, bf16* row, size_t head_dim);

// A scale for each 32 channels, 2^(scale - 127) of at most 2^100 either way, then a byte for each channel.
struct PackedRow {
  uint8_t* scales;  // [ScalesOfRow(head_dim)]
  uint8_t* codes;   // [head_dim]
};
struct PackedRowView {
  const uint8_t* scales;
  const uint8_t* codes;
};

// Packs one row, not for bf16. False: the row was not rounded to `dtype`, so the packed one is the rounded.
bool PackKvRow(KvDtype dtype, const bf16* row, size_t head_dim, const PackedRow& packed);
void UnpackKvRow(KvDtype dtype, const PackedRowView& packed, size_t head_dim, bf16* row);

// Bytes of a packed row on disk: its scales, then its codes.
inline size_t PackedRowBytes(size_t head_dim) { return ScalesOfRow(head_dim) + head_dim; }
inline PackedRow PackedRowAt(uint8_t* bytes, size_t head_dim) { return {bytes, bytes + ScalesOfRow(head_dim)}; }
inline PackedRowView PackedRowViewAt(const uint8_t* bytes, size_t head_dim) {
  return {bytes, bytes + ScalesOfRow(head_dim)};
}

// Where K and V of one token lie, [head_dim] elements of the geometry's type each; of int8 at a block's distance from
// each other, with their scales behind them.
struct KvPlace {
  const void* k;
  const void* v;
};
KvPlace PlaceInBlock(const KvGeometry& g, const void* block, uint32_t kv_head, uint32_t token);
// So many rows further, at a group's distances.
KvPlace PlaceAfter(const KvGeometry& g, const KvPlace& place, size_t rows);
// Scales of K, then of V, of a token of int8.
inline const uint8_t* ScalesBehind(const void* k, size_t head_dim) {
  return static_cast<const uint8_t*>(k) + 2 * head_dim;
}

// One row as bf16, which holds either type exactly. out: [head_dim].
void ReadKey(const KvGeometry& g, const KvPlace& place, bf16* out);
void ReadValue(const KvGeometry& g, const KvPlace& place, bf16* out);
// Rounds to the geometry's type. k, v: [head_dim].
void WriteKv(const KvGeometry& g, const bf16* k, const bf16* v, void* block, uint32_t kv_head, uint32_t token);

}  // namespace hga

#endif  // HGA_COMMON_KV_KV_ROWS_H_
