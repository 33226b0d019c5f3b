// The header of a safetensors file: which tensors it holds and where.
#ifndef HGA_GPU_WORKER_MODEL_SAFETENSORS_HEADER_H_
#define HGA_GPU_WORKER_MODEL_SAFETENSORS_HEADER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hga {

struct StoredTensor {
  std::string name;
  std::string dtype;            // as the file spells it: "BF16"
  std::vector<uint64_t> shape;  // outermost first; empty: a scalar
  uint64_t begin = 0, end = 0;  // bytes, from the start of the file's tensor data
};

// The format's own bound on the header's JSON.
constexpr uint64_t kMaxSafetensorsHeaderBytes = 100000000;

// `text`: the JSON. `data_bytes`: what follows it in the file; the tensors must fill it without gaps or overlaps, each
// aligned to its element when the data begins at `data_start` in the file. Sorted by place.
// INVALID_ARGUMENT names the tensor and what was expected. Memory is bounded by a small multiple of the text.
absl::StatusOr<std::vector<StoredTensor>> ParseSafetensorsHeader(absl::string_view text, uint64_t data_start,
                                                                 uint64_t data_bytes);

// Bytes of one element; 0: not a type of the format.
uint32_t SafetensorsElementBytes(absl::string_view dtype);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_SAFETENSORS_HEADER_H_
