// Element types of K/V, and of the 8-bit ones their scales.
//
// Both 8-bit types are microscaling formats: 32 channels of one token of one KV head share a power of two. So a rounded
// value is exact in bf16, rounding twice changes nothing, and packing what was rounded loses nothing: K/V is rounded
// once, where it is made, and is the same bits in RAM, on disk and after any restart.
#ifndef HGA_COMMON_KV_KV_DTYPE_H_
#define HGA_COMMON_KV_KV_DTYPE_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hga {

enum class KvDtype : uint8_t { kBf16 = 0, kFp8E4m3 = 1, kInt8 = 2 };

const char* KvDtypeName(KvDtype dtype);
// "bf16", "fp8_e4m3", "int8"; INVALID_ARGUMENT otherwise.
absl::StatusOr<KvDtype> ParseKvDtype(absl::string_view name);

inline constexpr size_t kScaledChannels = 32;
// Scales, a byte each, of a row of an 8-bit type.
inline size_t ScalesOfRow(size_t head_dim) { return (head_dim + kScaledChannels - 1) / kScaledChannels; }

}  // namespace hga

#endif  // HGA_COMMON_KV_KV_DTYPE_H_
