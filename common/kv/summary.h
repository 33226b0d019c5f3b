// Summaries: what the router keeps of a chunk.
//
// One record per layer and KV head, in two parts: the coarse part stands for the chunk as a whole, the fine part for
// what can be selected inside it (groups, or single tokens). One chunk's summary data:
//
//   for each layer: for each KV head: coarse part [coarse_bytes], then fine part [fine_bytes]
#ifndef HGA_COMMON_KV_SUMMARY_H_
#define HGA_COMMON_KV_SUMMARY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/kv/bf16.h"
#include "common/kv/geometry.h"

namespace hga {

// What a record holds and how a query is scored against it.
enum class SummaryForm {
  kMean,    // units of one bf16 vector u: q.u; coarse: the chunk's unit, fine: one unit per group
  kCuboid,  // units of two bf16 vectors: q.u0 + |q|.u1
  kSketch,  // common/kv/sketch.h: coarse: centre, fine: tokens
};

// How keys are summed up and scored. The seam for other methods: a table, looked up by name. Thread-safe.
struct SummaryMethod {
  const char* name;
  SummaryForm form;

  // Tokens that are selected together.
  uint32_t unit_tokens(const KvGeometry& g) const { return form == SummaryForm::kSketch ? 1 : g.group_tokens; }
  // Per layer and KV head of one chunk.
  size_t coarse_bytes(const KvGeometry& g) const;
  size_t fine_bytes(const KvGeometry& g) const;
  size_t record_bytes(const KvGeometry& g) const { return coarse_bytes(g) + fine_bytes(g); }
  size_t layer_bytes(const KvGeometry& g) const { return g.kv_heads * record_bytes(g); }
  // Of one chunk's summary data.
  size_t chunk_bytes(const KvGeometry& g) const { return g.layers * layer_bytes(g); }
};

// NOT_FOUND lists the methods there are.
absl::StatusOr<const SummaryMethod*> FindSummaryMethod(absl::string_view name);
std::vector<std::string> SummaryMethodNames();

// Summary of one layer of a finished chunk. block: [block_elements]; out: [layer_bytes], at any address.
void SummarizeBlock(const KvGeometry& g, const SummaryMethod& m, const bf16* block, uint8_t* out);

}  // namespace hga

#endif  // HGA_COMMON_KV_SUMMARY_H_
