#include "gpu_worker/model/fingerprint.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "gpu_worker/model/tensor_list.h"

namespace hga {
namespace {

constexpr size_t kSliceBytes = 4096;

// absl::StrCat keeps six digits of a float; its bits tell any two apart.
template <typename T>
void AddRaw(const T& value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string ConfigIdentity(const ModelConfig& c) {
  std::string out = c.architecture;
  for (uint32_t count : {c.layers, c.hidden, c.ffn, c.query_heads, c.kv_heads, c.head_dim, c.vocab_size, c.rope_dims,
                         static_cast<uint32_t>(c.rope_style), uint32_t{c.qkv_bias}, uint32_t{c.qk_norm}, c.experts,
                         c.experts_per_token, c.expert_ffn, uint32_t{c.normalize_expert_weights}}) {
    AddRaw(count, &out);
  }
  const RopeScaling& scaling = c.rope_scaling;
  AddRaw(scaling.kind, &out);
  AddRaw(scaling.original_context, &out);
  for (float number : {c.rms_epsilon, c.rope_base, scaling.factor, scaling.low_frequency_factor,
                       scaling.high_frequency_factor, scaling.beta_fast, scaling.beta_slow,
                       scaling.attention_factor}) {
    AddRaw(number, &out);
  }
  for (float divisor : scaling.divisors) AddRaw(divisor, &out);
  return out;
}

// Slices spread over the data, the last one ending with it: the whole of a large checkpoint would take minutes.
void AddSample(const uint8_t* data, size_t bytes, size_t slices, std::string* out) {
  const size_t length = std::min(kSliceBytes, bytes);
  if (bytes <= kSliceBytes) slices = 1;
  for (size_t s = 0; s < slices; ++s) {
    const size_t begin = slices == 1 ? 0 : (bytes - length) / (slices - 1) * s;
    const size_t at = s + 1 == slices ? bytes - length : begin;
    *out += HashBytes(absl::string_view(reinterpret_cast<const char*>(data + at), length)).ToBytes();
  }
}

}  // namespace

ModelFingerprint Fingerprint(const ModelWeights& weights) {
  const std::vector<NamedTensor> tensors = ListTensors(weights);
  // 64 MiB in all, so that a checkpoint of many small experts loads as fast as one of a few large matrices.
  const size_t slices = std::clamp<size_t>((size_t{64} << 20) / kSliceBytes / std::max<size_t>(1, tensors.size()), 3, 16);
  std::string identity = ConfigIdentity(weights.config);
  for (const auto& [name, view] : tensors) {
    absl::StrAppend(&identity, ";", name, ":", static_cast<uint32_t>(view.type), ":", view.rows, ":", view.cols, ":");
    AddSample(view.data, view.rows * view.row_bytes(), slices, &identity);
    if (view.tile_scales != nullptr) {
      AddSample(reinterpret_cast<const uint8_t*>(view.tile_scales), TileScaleCount(view) * sizeof(float), slices,
                &identity);
    }
  }
  return HashBytes(identity);
}

}  // namespace hga
