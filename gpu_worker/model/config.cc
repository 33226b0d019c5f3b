#include "gpu_worker/model/config.h"

#include "absl/strings/str_cat.h"

namespace hga {

absl::Status ModelConfig::Validate() const {
  const struct {
    const char* name;
    uint64_t value, low, high;
  } ranges[] = {
      {"layers", layers, 1, 1024},          {"hidden", hidden, 8, 65536},
      {"ffn", ffn, 8, 1 << 20},             {"vocab_size", vocab_size, 1, 1 << 22},
      {"context_tokens", context_tokens, 1, 1 << 24}, {"rope_dims", rope_dims, 2, head_dim},
  };
  for (const auto& range : ranges) {
    if (range.value < range.low || range.value > range.high) {
      return absl::InvalidArgumentError(absl::StrCat("model: ", range.name, " is ", range.value, ", must be ",
                                                     range.low, " to ", range.high));
    }
  }
  if (rope_dims % 2 != 0) return absl::InvalidArgumentError(absl::StrCat("model: rope_dims ", rope_dims, " is odd"));
  if (!(rms_epsilon > 0 && rms_epsilon < 1)) return absl::InvalidArgumentError("model: rms_epsilon out of range");
  if (!(rope_base > 1 && rope_base < 1e12f)) return absl::InvalidArgumentError("model: rope_base out of range");
  return Geometry().Validate();
}

KvGeometry ModelConfig::Geometry(uint32_t chunk_tokens, uint32_t group_tokens) const {
  KvGeometry g;
  g.layers = layers;
  g.query_heads = query_heads;
  g.kv_heads = kv_heads;
  g.head_dim = head_dim;
  g.chunk_tokens = chunk_tokens;
  g.group_tokens = group_tokens;
  return g;
}

}  // namespace hga
