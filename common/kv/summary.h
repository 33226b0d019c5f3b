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
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/kv/bf16.h"
#include "common/kv/geometry.h"
#include "common/kv/sketch_deal.h"
#include "common/kv/unit.h"

namespace hga {

// How keys are summed up and scored: the seam for other methods. Looked up by name: FORM, then the tokens of a unit (8,
// 16 or 32; without: a group's), then -int8 for records of int8 in place of bf16. E.g. mean, cuboid8, box32-int8. Of
// sketches there are two: sketch, of one bit for each channel, and dealt, whose bits a plan of the model deals out; its
// name with a plan is dealt:ID.
// Thread-safe.
struct SummaryMethod {
  std::string name;
  SummaryForm form = SummaryForm::kSketch;
  uint32_t wanted_unit_tokens = 0;  // 0: a group's
  bool int8 = false;
  bool dealt = false;
  std::shared_ptr<const SketchPlan> plan;  // of `dealt`, whose records are as those of `sketch` without it

  // nullptr: bits are not dealt out.
  const SketchDeal* deal(uint32_t layer, uint32_t kv_head) const {
    return plan == nullptr ? nullptr : &plan->deal(layer, kv_head);
  }

  // Tokens that are selected together: what is wanted, or the largest part of it that divides a chunk.
  uint32_t unit_tokens(const KvGeometry& g) const;
  // Of the chunk's unit, and of those inside it. kSketch: of the centre, and none.
  UnitLayout coarse_layout(const KvGeometry& g) const;
  UnitLayout fine_layout(const KvGeometry& g) const;
  // Per layer and KV head of one chunk.
  size_t coarse_bytes(const KvGeometry& g) const { return coarse_layout(g).bytes(); }
  size_t fine_bytes(const KvGeometry& g) const;
  size_t record_bytes(const KvGeometry& g) const { return coarse_bytes(g) + fine_bytes(g); }
  size_t layer_bytes(const KvGeometry& g) const { return g.kv_heads * record_bytes(g); }
  // Of what readers of a record derive from it to rank its chunk: SketchExtents.
  size_t extents_bytes() const { return dealt ? kExtents * sizeof(int16_t) : 0; }
  // Of one chunk's summary data.
  size_t chunk_bytes(const KvGeometry& g) const { return g.layers * layer_bytes(g); }
};

// Valid for ever. NOT_FOUND lists the methods there are.
absl::StatusOr<const SummaryMethod*> FindSummaryMethod(absl::string_view name);
// The same for a model, ready for use: with the plan of its channel energies (SketchPlan), if the method needs one; a
// name with a plan's id must have that one. INVALID_ARGUMENT: no such plan. RESOURCE_EXHAUSTED: plans are kept for
// ever, and there are too many.
absl::StatusOr<const SummaryMethod*> FindSummaryMethod(absl::string_view name, const KvGeometry& g,
                                                       absl::string_view energies);
std::vector<std::string> SummaryMethodNames();

// Summary of a layer of a finished chunk. block: [block_bytes]; out: [layer_bytes], at any address. Keys that are
// not finite count as 0.
void SummarizeBlock(const KvGeometry& g, const SummaryMethod& m, uint32_t layer, const void* block, uint8_t* out);

// Extents of a chunk's summary data, which has the right size: [layers][kv_heads][kExtents], zeros without a plan.
// Empty: the method has none.
std::vector<int16_t> ChunkExtents(const KvGeometry& g, const SummaryMethod& m, const uint8_t* data);
// A chunk's summary data, and its extents behind it. Empty: the data has another size.
std::string WithExtents(const KvGeometry& g, const SummaryMethod& m, const std::string& data);
inline size_t BytesWithExtents(const KvGeometry& g, const SummaryMethod& m) {
  return m.chunk_bytes(g) + g.layers * g.kv_heads * m.extents_bytes();
}

// Scores of one KV head's record in a layer, in plain loops and double precision, for tests and explanations: of the
// chunk, and of the units inside it [chunk_tokens / unit_tokens]. query: [head_dim], softmax scale applied.
void ScoreRecord(const KvGeometry& g, const SummaryMethod& m, uint32_t layer, uint32_t kv_head, const float* query,
                 const uint8_t* record, double* chunk, double* units);

}  // namespace hga

#endif  // HGA_COMMON_KV_SUMMARY_H_
