#include "common/kv/summary.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace hga {
namespace {

// "mean": the mean of the post-RoPE keys. HGA's own summary (mixed RoPE, arXiv 2606.30709) equals it to within a
// small phase on the slow frequencies.
void SummarizeMean(const bf16* const* keys, uint32_t count, uint32_t head_dim, bf16* out) {
  for (uint32_t d = 0; d < head_dim; ++d) {
    double sum = 0;
    for (uint32_t i = 0; i < count; ++i) sum += ToFloat(keys[i][d]);
    out[d] = ToBf16(static_cast<float>(sum / count));
  }
}

// "cuboid": centre of the range and mean distance from it, per channel (ArkVale's cuboid-mean digest).
void SummarizeCuboid(const bf16* const* keys, uint32_t count, uint32_t head_dim, bf16* out) {
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
    {"mean", 1, SummarizeMean, ScoreForm::kDot},
    {"cuboid", 2, SummarizeCuboid, ScoreForm::kDotPlusAbsDot},
};

}  // namespace

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

void SummarizeBlock(const KvGeometry& g, const SummaryMethod& m, const bf16* block, bf16* out) {
  const size_t unit = SummaryUnitElements(g, m);
  std::vector<const bf16*> keys(g.chunk_tokens);
  for (uint32_t head = 0; head < g.kv_heads; ++head) {
    for (uint32_t t = 0; t < g.chunk_tokens; ++t) keys[t] = block + g.k_row(head, t);
    m.summarize(keys.data(), g.chunk_tokens, g.head_dim, out);
    out += unit;
    for (uint32_t group = 0; group < g.groups_per_chunk(); ++group, out += unit) {
      m.summarize(keys.data() + group * g.group_tokens, g.group_tokens, g.head_dim, out);
    }
  }
}

}  // namespace hga
