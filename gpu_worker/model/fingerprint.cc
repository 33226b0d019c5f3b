#include "gpu_worker/model/fingerprint.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gpu_worker/model/read_only_file.h"
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

using Slices = std::vector<absl::string_view>;

// Spread over the data, the last one ending with it: the whole of a large checkpoint would take minutes to read.
void AddSlices(const void* data, size_t bytes, size_t count, Slices* out) {
  const char* begin = static_cast<const char*>(data);
  const size_t length = std::min(kSliceBytes, bytes);
  if (bytes <= kSliceBytes) count = 1;
  for (size_t s = 0; s + 1 < count; ++s) out->emplace_back(begin + (bytes - length) / (count - 1) * s, length);
  out->emplace_back(begin + bytes - length, length);
}

Slices SlicesOf(const TensorView& view, size_t count) {
  Slices slices;
  AddSlices(view.data, view.rows * view.row_bytes(), count, &slices);
  if (view.tile_scales != nullptr) {
    AddSlices(view.tile_scales, TileScaleCount(view) * sizeof(float), count, &slices);
  }
  return slices;
}

}  // namespace

ModelFingerprint Fingerprint(const ModelWeights& weights, const std::function<void(double)>& progress) {
  const std::vector<NamedTensor> tensors = ListTensors(weights);
  // 64 MiB in all, so that a checkpoint of many small experts loads as fast as one of a few large matrices.
  const size_t count =
      std::clamp<size_t>((size_t{64} << 20) / kSliceBytes / std::max<size_t>(1, tensors.size()), 3, 16);
  std::string identity = ConfigIdentity(weights.config);
  // A batch's pages are asked for before the first one is waited for.
  constexpr size_t kBatch = 256;
  std::vector<Slices> slices(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (i % kBatch == 0 && progress != nullptr) progress(static_cast<double>(i) / tensors.size());
    for (size_t ahead = i; i % kBatch == 0 && ahead < std::min(i + kBatch, tensors.size()); ++ahead) {
      slices[ahead] = SlicesOf(tensors[ahead].view, count);
      for (absl::string_view slice : slices[ahead]) {
        Prefetch(reinterpret_cast<const uint8_t*>(slice.data()), slice.size());
      }
    }
    const auto& [name, view] = tensors[i];
    absl::StrAppend(&identity, ";", name, ":", static_cast<uint32_t>(view.type), ":", view.rows, ":", view.cols, ":");
    for (absl::string_view slice : slices[i]) identity += HashBytes(slice).ToBytes();
  }
  return HashBytes(identity);
}

}  // namespace hga
