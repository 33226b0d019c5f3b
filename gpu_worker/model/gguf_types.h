// Types of metadata values, as a GGUF file numbers them.
#ifndef HGA_GPU_WORKER_MODEL_GGUF_TYPES_H_
#define HGA_GPU_WORKER_MODEL_GGUF_TYPES_H_

#include <cstdint>

namespace hga {

enum GgufType : uint32_t {
  kUint8, kInt8, kUint16, kInt16, kUint32, kInt32, kFloat32, kBool, kString, kArray, kUint64, kInt64, kFloat64
};
// Bytes of one value; 0 for strings and arrays.
inline constexpr uint32_t kGgufTypeBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

inline bool IsGgufInteger(uint32_t type) {
  return type <= kInt32 || type == kBool || type == kUint64 || type == kInt64;
}
inline bool IsGgufFloat(uint32_t type) { return type == kFloat32 || type == kFloat64; }

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_GGUF_TYPES_H_
