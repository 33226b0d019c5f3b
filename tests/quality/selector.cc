#include "tests/quality/selector.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "gpu_worker/engine/step_budget.h"

namespace hga {
namespace {

AttendShape ShapeOf(const KvGeometry& g, uint32_t sink_tokens, uint32_t window_tokens, uint32_t block_tokens) {
  return {g, sink_tokens, window_tokens / g.chunk_tokens, block_tokens};
}

class DenseSelector : public Selector {
 public:
  explicit DenseSelector(const KvGeometry& g) : shape_{g, 0, UINT32_MAX} {}

  void PlanAlways(const StepRows& rows, const BlockOfChunk& block_of, AttendPlan* plan) override {
    plan->blocks.clear();
    for (const RowBlock& b : SplitRows(rows, shape_.geometry.chunk_tokens)) {
      plan->blocks.emplace_back();
      PlanMandatory(shape_, b.first_row, b.rows, b.first_position, block_of, &plan->blocks.back());
    }
  }

 private:
  const AttendShape shape_;
};

class WindowSelector : public Selector {
 public:
  WindowSelector(const KvGeometry& g, const KeyBudget& budget)
      : shape_{g, budget.sink_tokens, 0},
        newest_(std::max(1u, budget.total - std::min(budget.total, budget.sink_tokens))) {}

  void PlanAlways(const StepRows& rows, const BlockOfChunk& block_of, AttendPlan* plan) override {
    const KvGeometry& g = shape_.geometry;
    plan->blocks.resize(rows.rows);
    for (uint32_t r = 0; r < rows.rows; ++r) {
      const uint32_t end = rows.first_position + r + 1;
      const uint32_t begin = std::max(end > newest_ ? end - newest_ : 0, std::min(end, shape_.sink_tokens));
      HeadSelection keys;
      for (uint32_t chunk = 0; chunk * g.chunk_tokens < end; ++chunk) {
        const uint32_t from = chunk * g.chunk_tokens;
        const uint64_t mask = Bits(from, 0, std::min(end, shape_.sink_tokens), g.chunk_tokens) |
                              Bits(from, begin, end, g.chunk_tokens);
        if (mask != 0) keys.push_back({chunk, 0, mask});
      }
      PlanRouted(shape_, r, 1, std::vector<HeadSelection>(g.kv_heads, keys), block_of, &plan->blocks[r]);
    }
  }

 private:
  // Of the chunk whose first token is at `from`: its tokens in [begin, end).
  static uint64_t Bits(uint32_t from, uint32_t begin, uint32_t end, uint32_t tokens) {
    const uint32_t a = std::clamp(begin, from, from + tokens) - from, b = std::clamp(end, from, from + tokens) - from;
    if (a >= b) return 0;
    return (~uint64_t{0} >> (64 - (b - a))) << a;
  }

  const AttendShape shape_;
  const uint32_t newest_;
};

class RoutedSelector : public Selector {
 public:
  RoutedSelector(const KvGeometry& g, const KeyBudget& budget, std::unique_ptr<Chooser> chooser)
      : shapes_(ShapesOf(g, budget)), total_(budget.total), share_(budget.share), chooser_(std::move(chooser)) {}

  void Seal(uint32_t layer, uint32_t chunk, const void* block) override { chooser_->Seal(layer, chunk, block); }

  void PlanAlways(const StepRows& rows, const BlockOfChunk& block_of, AttendPlan* plan) override {
    if (rows.layer == 0) LayOut(rows);
    plan->blocks.resize(blocks_.size());
    plan->sum_values = share_.residual;
#pragma omp parallel for schedule(dynamic)
    for (size_t b = 0; b < blocks_.size(); ++b) {
      PlanMandatory(ShapeOfPath(rows.path), blocks_[b].first_row, blocks_[b].rows, blocks_[b].first_position, block_of,
                    &plan->blocks[b]);
    }
  }

  void PlanChosen(const StepRows& rows, const float* attended, const BlockOfChunk& block_of, AttendPlan* plan,
                  std::vector<float>* missed) override {
    const KvGeometry& g = shapes_.decode.geometry;
    for (size_t i = 0; i < routed_.size(); ++i) {
      const size_t first_head = size_t{routed_[i].first_row} * g.query_heads;
      routed_[i].route.queries = rows.queries + first_head * g.head_dim;
      budgets_[i].FillRoute(rows.layer, attended + first_head, &routed_[i].route);
    }
    chooser_->Choose(rows, routed_, block_of, &selections_, &missed_);
    GatherMissed(rows, missed);
    plan->blocks.resize(routed_.size());
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < routed_.size(); ++i) {
      budgets_[i].Spend(selections_[i]);
      PlanRouted(ShapeOfPath(rows.path), routed_[i].first_row, routed_[i].route.tokens, selections_[i], block_of,
                 &plan->blocks[i]);
    }
  }

 private:
  void GatherMissed(const StepRows& rows, std::vector<float>* missed) const {
    const uint32_t heads = shapes_.decode.geometry.query_heads;
    missed->clear();
    if (!share_.residual) return;
    missed->resize(size_t{rows.rows} * heads, -std::numeric_limits<float>::infinity());
    for (size_t i = 0; i < routed_.size(); ++i) {
      std::copy(missed_[i].begin(), missed_[i].end(), missed->begin() + size_t{routed_[i].first_row} * heads);
    }
  }

  const AttendShape& ShapeOfPath(Path path) const { return path == Path::kDecode ? shapes_.decode : shapes_.prefill; }

  // The blocks of a step, the same in all layers.
  void LayOut(const StepRows& rows) {
    const AttendShape& shape = ShapeOfPath(rows.path);
    const KvGeometry& g = shape.geometry;
    blocks_ = SplitRows(rows, shape.block_tokens);
    routed_.clear();
    budgets_.clear();
    for (const RowBlock& block : blocks_) {
      const ChunkRange range = RoutedChunks(shape, block.first_position / g.chunk_tokens);
      if (range.empty()) continue;
      RoutedRows r;
      r.first_row = block.first_row;
      r.route.tokens = block.rows;
      r.route.first_key = shape.sink_tokens;
      r.route.route_upto = range.end;
      budgets_.emplace_back(share_, g,
                            RoutedBudget(shapes_, rows.path, total_, chooser_->unit_tokens(), block.first_position,
                                         block.rows),
                            r.route.keys(g));
      routed_.push_back(r);
    }
  }

  const AttendShapes shapes_;
  const uint32_t total_;
  const BudgetOptions share_;
  const std::unique_ptr<Chooser> chooser_;
  std::vector<RowBlock> blocks_;
  std::vector<RoutedRows> routed_;
  std::vector<StepBudget> budgets_;  // [routed]
  std::vector<std::vector<HeadSelection>> selections_;
  std::vector<std::vector<float>> missed_;  // [routed]
};

}  // namespace

AttendShapes ShapesOf(const KvGeometry& g, const KeyBudget& budget) {
  return {ShapeOf(g, budget.sink_tokens, budget.prefill_window, budget.prefill_block),
          ShapeOf(g, budget.sink_tokens, budget.decode_window, g.chunk_tokens)};
}

std::vector<RowBlock> SplitRows(const StepRows& rows, uint32_t block_tokens) {
  std::vector<RowBlock> blocks;
  for (uint32_t r = 0; r < rows.rows; ++r) {
    const uint32_t position = rows.first_position + r;
    if (r == 0 || rows.path == Path::kDecode || position % block_tokens == 0) blocks.push_back({r, 0, position});
    ++blocks.back().rows;
  }
  return blocks;
}

std::vector<uint32_t> RoutedBudget(const AttendShapes& shapes, Path path, uint32_t total, uint32_t unit_tokens,
                                   uint32_t first_position, uint32_t rows) {
  std::vector<uint32_t> budgets;
  for (uint32_t r = 0; r < rows; ++r) {
    const uint32_t position = first_position + r;
    if (position < total) {  // its history fits
      budgets.push_back(UINT32_MAX);
      continue;
    }
    if (path == Path::kDecode) {
      const uint32_t always = MandatoryKeys(shapes.decode, position);
      const uint32_t keys = total > always ? total - always : 0;
      budgets.push_back((keys + unit_tokens / 2) / unit_tokens * unit_tokens);
      continue;
    }
    // The product gives the first token of a block half of the budget and the last all of it. The whole chunk's
    // average, with what is attended always, is `total`.
    const double c = shapes.prefill.geometry.chunk_tokens, b = shapes.prefill.block_tokens;
    const double always = shapes.prefill.sink_tokens + shapes.prefill.window_chunks * c + (c + 1) / 2;
    const double mean_share = (b + (b + 1) / 2) / (2 * b);
    BudgetOptions budget;
    budget.fraction = total > first_position + rows ? 1.0f : 1e-9f;  // 1: all that there is
    budget.min_tokens = budget.max_tokens = static_cast<uint32_t>(std::max(0.0, (total - always) / mean_share) + 0.5);
    budgets.push_back(PrefillBudgetKeys(shapes.prefill, budget, position));
  }
  return budgets;
}

void CountKeys(const AttendPlan& plan, uint32_t first_position, std::vector<double>* keys) {
  for (const QueryBlock& block : plan.blocks) {
    for (const auto& runs : block.runs) {
      for (const KvRun& run : runs) {
        for (uint32_t r = run.first_row; r < block.rows; ++r) {
          const uint32_t position = first_position + block.first_row + r;
          if (run.position <= position) {
            (*keys)[block.first_row + r] += std::min<uint32_t>(run.tokens, position - run.position + 1);
          }
        }
      }
    }
  }
}

std::unique_ptr<Selector> NewDenseSelector(const KvGeometry& g) { return std::make_unique<DenseSelector>(g); }

std::unique_ptr<Selector> NewWindowSelector(const KvGeometry& g, const KeyBudget& budget) {
  return std::make_unique<WindowSelector>(g, budget);
}

std::unique_ptr<Selector> NewRoutedSelector(const KvGeometry& g, const KeyBudget& budget,
                                            std::unique_ptr<Chooser> chooser) {
  return std::make_unique<RoutedSelector>(g, budget, std::move(chooser));
}

}  // namespace hga
