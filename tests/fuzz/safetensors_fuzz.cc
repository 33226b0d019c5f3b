// The header of a safetensors file and the JSON files beside it, on any bytes: they answer or refuse.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "gpu_worker/model/hf_config.h"
#include "gpu_worker/model/safetensors_header.h"

namespace {

// What was accepted must be safe to view.
void CheckPlaces(const std::vector<hga::StoredTensor>& tensors, uint64_t data_bytes) {
  uint64_t end = 0;
  for (const hga::StoredTensor& t : tensors) {
    uint64_t elements = 1;
    for (uint64_t size : t.shape) elements *= size;
    if (t.begin != end || t.end - t.begin != elements * hga::SafetensorsElementBytes(t.dtype)) std::abort();
    end = t.end;
  }
  if (end != data_bytes) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // The first byte says how much data follows the header.
  const uint64_t data_bytes = data[0];
  const absl::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  const auto tensors = hga::ParseSafetensorsHeader(text, 8, data_bytes);
  if (tensors.ok()) CheckPlaces(*tensors, data_bytes);
  const auto config = hga::ParseHfConfig(text, "config.json");
  if (config.ok() && !config->model.Validate().ok()) std::abort();
  return 0;
}
