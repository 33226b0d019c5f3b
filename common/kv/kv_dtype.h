// Element types that K/V may be rounded to, and their packed form.
//
// Both 8-bit types are microscaling formats: 32 channels of one token of one KV head share a power of two. So a rounded
// value is exact in bf16, rounding twice changes nothing, and packing what was rounded loses nothing: K/V is rounded
// once, where it is made, and is the same bits in RAM, on disk and after any restart.
#ifndef HGA_COMMON_KV_KV_DTYPE_H_
#define HGA_COMMON_KV_KV_DTYPE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/kv/bf16.h"

namespace hga {

enum class KvDtype : uint8_t { kBf16 = 0, kFp8E4m3 = 1, kInt8 = 2 };

const char* KvDtypeName(KvDtype dtype);
// "bf16", "fp8_e4m3", "int8"; INVALID_ARGUMENT otherwise.
absl::StatusOr<KvDtype> ParseKvDtype(absl::string_view name);

inline constexpr size_t kScaledChannels = 32;

// Rounds one row (K or V of one token of one KV head) in place. What is no number becomes zero.
void RoundKvRow(KvDtype dtype, bf16* row, size_t head_dim);

// Bytes of a packed row: a scale for each 32 channels, then a byte for each channel. Not for bf16.
inline size_t PackedRowBytes(size_t head_dim) {
  return (head_dim + kScaledChannels - 1) / kScaledChannels + head_dim;
}
// Packs one row. False: the row was not rounded to `dtype`, the result is of no use.
bool PackKvRow(KvDtype dtype, const bf16* row, size_t head_dim, uint8_t* packed);
void UnpackKvRow(KvDtype dtype, const uint8_t* packed, size_t head_dim, bf16* row);

}  // namespace hga

#endif  // HGA_COMMON_KV_KV_DTYPE_H_
