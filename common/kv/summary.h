// Summaries: what the router keeps of a chunk.
//
// Layout of one chunk's summary data (bf16, little endian), `v` = vectors per unit x head_dim of the method:
//
//   for each layer: for each KV head: chunk unit [v], then group units [groups_per_chunk][v]
#ifndef HGA_COMMON_KV_SUMMARY_H_
#define HGA_COMMON_KV_SUMMARY_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/kv/bf16.h"
#include "common/kv/geometry.h"

namespace hga {

// How a query is scored against a unit.
enum class ScoreForm {
  kDot,            // q.u0
  kDotPlusAbsDot,  // q.u0 + |q|.u1
};

// How keys are summed up and how a query is scored against the sum. The seam for other methods: a table of pure
// functions, looked up by name. Thread-safe.
struct SummaryMethod {
  const char* name;
  // Vectors of head_dim that one unit (chunk or group) takes.
  uint32_t vectors_per_unit;
  // keys: `count` >= 1 post-RoPE keys of one KV head, [head_dim] each. Writes [vectors_per_unit][head_dim].
  void (*summarize)(const bf16* const* keys, uint32_t count, uint32_t head_dim, bf16* out);
  ScoreForm score;
};

// NOT_FOUND lists the methods there are.
absl::StatusOr<const SummaryMethod*> FindSummaryMethod(absl::string_view name);
std::vector<std::string> SummaryMethodNames();

// Elements of one unit, of one layer and of a whole chunk's summary data.
inline size_t SummaryUnitElements(const KvGeometry& g, const SummaryMethod& m) {
  return size_t{m.vectors_per_unit} * g.head_dim;
}
inline size_t SummaryLayerElements(const KvGeometry& g, const SummaryMethod& m) {
  return size_t{g.kv_heads} * (1 + g.groups_per_chunk()) * SummaryUnitElements(g, m);
}
inline size_t SummaryElements(const KvGeometry& g, const SummaryMethod& m) {
  return g.layers * SummaryLayerElements(g, m);
}

// Summary of one layer of a finished chunk. block: [block_elements]; out: [SummaryLayerElements].
void SummarizeBlock(const KvGeometry& g, const SummaryMethod& m, const bf16* block, bf16* out);

}  // namespace hga

#endif  // HGA_COMMON_KV_SUMMARY_H_
