// Choice of keys within the routed range: what the router answers in the product, and the oracles beside it.
#ifndef HGA_TESTS_QUALITY_CHOOSER_H_
#define HGA_TESTS_QUALITY_CHOOSER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common/kv/geometry.h"
#include "common/kv/route_message.h"
#include "common/kv/summary.h"
#include "gpu_worker/engine/attend_plan.h"
#include "router/index/select.h"

namespace hga {

// How the rows of a step are selected: each by itself, or chunk by chunk with what they chose in common.
enum class Path { kDecode, kPrefill };
const char* PathName(Path path);

// Consecutive rows of one sequence in one layer.
struct StepRows {
  Path path = Path::kDecode;
  uint32_t layer = 0;
  uint32_t rows = 0;
  uint32_t first_position = 0;
  const bf16* queries = nullptr;  // [rows][query_heads][head_dim], after RoPE
};

// Rows that are routed together.
struct RoutedRows {
  uint32_t first_row = 0;  // in the step
  RouteBlock route;        // its range is never empty
};

// Used by one thread; parallel inside.
class Chooser {
 public:
  virtual ~Chooser() = default;
  virtual void Seal(uint32_t layer, uint32_t chunk, const void* block) {}
  // Keys that are chosen together.
  virtual uint32_t unit_tokens() const = 0;
  // out: [blocks][kv_heads], overwritten. missed: [blocks], as RouteResponse::missed; empty where it is not known.
  virtual void Choose(const StepRows& rows, const std::vector<RoutedRows>& blocks, const BlockOfChunk& block_of,
                      std::vector<std::vector<HeadSelection>>* out, std::vector<std::vector<float>>* missed) = 0;
};

// The product's summaries and selection. methods: [layers], of one layer each.
std::unique_ptr<Chooser> NewIndexChooser(const KvGeometry& g, std::vector<const SummaryMethod*> methods,
                                         const SelectOptions& options);
// Units with the most exact attention mass given all keys, averaged over the query heads of a KV head.
std::unique_ptr<Chooser> NewOracleChooser(const KvGeometry& g, uint32_t unit_tokens);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_CHOOSER_H_
