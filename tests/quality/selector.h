// Who decides which keys the rows of a step attend: one selector per sequence and configuration.
#ifndef HGA_TESTS_QUALITY_SELECTOR_H_
#define HGA_TESTS_QUALITY_SELECTOR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/engine/attend_plan.h"
#include "gpu_worker/engine/engine_options.h"
#include "tests/quality/chooser.h"

namespace hga {

// Used by one thread; parallel inside.
class Selector {
 public:
  virtual ~Selector() = default;
  // All keys of a chunk are written in this layer. Comes before the plans of the step that wrote the last of them.
  virtual void Seal(uint32_t layer, uint32_t chunk, const void* block) {}
  // Overwrites `plan` with what the rows attend in this layer whatever is chosen.
  virtual void PlanAlways(const StepRows& rows, const BlockOfChunk& block, AttendPlan* plan) = 0;
  // And with what is chosen besides, once that was attended. attended: Backend::LogSumExp of the rows. missed: for
  // Backend::AddResidual, overwritten; empty: there is none.
  virtual void PlanChosen(const StepRows& rows, const float* attended, const BlockOfChunk& block, AttendPlan* plan,
                          std::vector<float>* missed) {
    plan->blocks.clear();
    missed->clear();
  }
};

// What a query attends always, and the most it attends in all.
struct KeyBudget {
  // Per query and KV head: sinks, window, own chunk and what is chosen. In the decode path each query gets exactly this
  // many (groups: to the nearest), in the prefill path the queries of a chunk do on average.
  // With `share.shared` a query attends at most so many on average over the layers and KV heads.
  uint32_t total = 512;
  BudgetOptions share;  // its way of sharing; what it says of sizes is not used
  uint32_t sink_tokens = 4;
  uint32_t decode_window = 64;
  uint32_t prefill_window = 256;
  uint32_t prefill_block = 32;  // queries that share what they select
  std::string channel_energies;  // of the model, for methods that deal out bits (common/kv/sketch_deal.h)
};

// All keys.
std::unique_ptr<Selector> NewDenseSelector(const KvGeometry& g);
// Sinks and the newest keys. Each row by itself in both paths.
std::unique_ptr<Selector> NewWindowSelector(const KvGeometry& g, const KeyBudget& budget);
// Sinks, window and what `chooser` chooses.
std::unique_ptr<Selector> NewRoutedSelector(const KvGeometry& g, const KeyBudget& budget,
                                            std::unique_ptr<Chooser> chooser);

// Rows of a step that are planned together: one by one in decode, blocks of so many tokens in prefill.
struct RowBlock {
  uint32_t first_row = 0, rows = 0, first_position = 0;
};
std::vector<RowBlock> SplitRows(const StepRows& rows, uint32_t block_tokens);

// Keys that `rows` queries may choose: [rows], never descending within a block in prefill.
std::vector<uint32_t> RoutedBudget(const AttendShapes& shapes, Path path, uint32_t total, uint32_t unit_tokens,
                                   uint32_t first_position, uint32_t rows);

// The two windows of a budget.
AttendShapes ShapesOf(const KvGeometry& g, const KeyBudget& budget);

// Keys that each row of a plan attends, summed over the KV heads: added to keys[row].
void CountKeys(const AttendPlan& plan, uint32_t first_position, std::vector<double>* keys);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_SELECTOR_H_
