#include "common/kv/summary.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/kv/sketch.h"

namespace hga {
namespace {

// The mean of the post-RoPE keys. HGA's own summary (mixed RoPE, arXiv 2606.30709) equals it to within a small phase on
// the slow frequencies.
void Mean(const bf16* const* keys, uint32_t count, uint32_t head_dim, bf16* out) {
  for (uint32_t d = 0; d < head_dim; ++d) {
    double sum = 0;
    for (uint32_t i = 0; i < count; ++i) sum += ToFloat(keys[i][d]);
    out[d] = ToBf16(static_cast<float>(sum / count));
  }
}

// Centre of the range and mean distance from it, per channel (ArkVale's cuboid-mean digest).
void Cuboid(const bf16* const* keys, uint32_t count, uint32_t head_dim, bf16* out) {
  for (uint32_t d = 0; d < head_dim; ++d) {
    float low = ToFloat(keys[0][d]), high = low;
    for (uint32_t i = 1; i < count; ++i) {
      low = std::min(low, ToFloat(keys[i][d]));
      high = std::max(high, ToFloat(keys[i][d]));
    }
    const float centre = (low + high) / 2;
    double spread = 0;
    for (uint32_t i = 0; i < count; ++i) spread += std::fabs(ToFloat(keys[i][d]) - centre);
    out[d] = ToBf16(centre);
    out[head_dim + d] = ToBf16(static_cast<float>(spread / count));
  }
}

constexpr SummaryMethod kMethods[] = {
    {"sketch", SummaryForm::kSketch},
    {"mean", SummaryForm::kMean},
    {"cuboid", SummaryForm::kCuboid},
};

size_t UnitBytes(const KvGeometry& g, SummaryForm form) {
  return (form == SummaryForm::kCuboid ? 2 : 1) * size_t{g.head_dim} * sizeof(bf16);
}

// The unit of the chunk, then those of its groups.
void WriteUnits(const KvGeometry& g, SummaryForm form, const bf16* const* keys, uint8_t* out) {
  const auto summarize = form == SummaryForm::kCuboid ? Cuboid : Mean;
  std::vector<bf16> unit(UnitBytes(g, form) / sizeof(bf16));
  const auto write = [&](uint32_t first, uint32_t count) {
    summarize(keys + first, count, g.head_dim, unit.data());
    std::memcpy(out, unit.data(), unit.size() * sizeof(bf16));
    out += unit.size() * sizeof(bf16);
  };
  write(0, g.chunk_tokens);
  for (uint32_t first = 0; first < g.chunk_tokens; first += g.group_tokens) write(first, g.group_tokens);
}

}  // namespace

size_t SummaryMethod::coarse_bytes(const KvGeometry& g) const {
  return form == SummaryForm::kSketch ? SketchCentreBytes(g.head_dim) : UnitBytes(g, form);
}

size_t SummaryMethod::fine_bytes(const KvGeometry& g) const {
  return form == SummaryForm::kSketch ? SketchTokenBytes(g.head_dim) : g.groups_per_chunk() * UnitBytes(g, form);
}

absl::StatusOr<const SummaryMethod*> FindSummaryMethod(absl::string_view name) {
  for (const SummaryMethod& method : kMethods) {
    if (name == method.name) return &method;
  }
  return absl::NotFoundError(
      absl::StrCat("no summary method '", name, "'; there are: ", absl::StrJoin(SummaryMethodNames(), ", ")));
}

std::vector<std::string> SummaryMethodNames() {
  std::vector<std::string> names;
  for (const SummaryMethod& method : kMethods) names.push_back(method.name);
  return names;
}

void SummarizeBlock(const KvGeometry& g, const SummaryMethod& m, const bf16* block, uint8_t* out) {
  std::vector<const bf16*> keys(g.chunk_tokens);
  for (uint32_t head = 0; head < g.kv_heads; ++head, out += m.record_bytes(g)) {
    for (uint32_t t = 0; t < g.chunk_tokens; ++t) keys[t] = block + g.k_row(head, t);
    if (m.form == SummaryForm::kSketch) {
      MakeSketch(keys.data(), g.chunk_tokens, g.head_dim, out, out + m.coarse_bytes(g));
    } else {
      WriteUnits(g, m.form, keys.data(), out);
    }
  }
}

}  // namespace hga
