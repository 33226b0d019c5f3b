#include "gpu_worker/engine/attend_plan.h"

#include <map>
#include <set>

#include "gtest/gtest.h"

namespace hga {
namespace {

AttendShape Shape() {
  AttendShape shape;
  shape.geometry.layers = 1;
  shape.geometry.query_heads = 4;
  shape.geometry.kv_heads = 2;
  shape.geometry.head_dim = 8;
  shape.sink_chunks = 1;
  shape.window_chunks = 4;
  return shape;
}

// Blocks of as many chunks as are asked for.
class Blocks {
 public:
  const bf16* operator()(uint32_t chunk) {
    auto& data = chunks_[chunk];
    data.resize(Shape().geometry.block_elements());
    return data.data();
  }

 private:
  std::map<uint32_t, std::vector<bf16>> chunks_;
};

// Keys that a row sees by the rule of KvRun.
std::set<uint32_t> KeysOf(const QueryBlock& block, uint32_t head, uint32_t row, uint32_t position) {
  std::set<uint32_t> keys;
  for (const KvRun& run : block.runs[head]) {
    if (row < run.first_row) continue;
    for (uint32_t j = 0; j < run.tokens && run.position + j <= position; ++j) {
      EXPECT_TRUE(keys.insert(run.position + j).second) << "attended twice: " << run.position + j;
    }
  }
  return keys;
}

TEST(AttendPlanTest, AlwaysAndRoutedTogetherAreDenseAtEveryEdge) {
  const AttendShape shape = Shape();
  Blocks blocks;
  for (uint32_t p : {0u, 1u, 15u, 16u, 63u, 64u, 65u, 319u, 320u, 383u, 384u, 385u, 447u, 1000u}) {
    QueryBlock always, routed;
    PlanMandatory(shape, 3, 1, p, std::ref(blocks), &always);
    const ChunkRange range = RoutedChunks(shape, p / 64);
    std::vector<HeadSelection> everything(2);
    for (auto& head : everything) {
      for (uint32_t g = range.first * 4; g < range.end * 4; ++g) head.push_back({g, 0});
    }
    PlanRouted(shape, 3, 1, everything, std::ref(blocks), &routed);
    EXPECT_EQ(always.first_row, 3u);
    for (uint32_t head = 0; head < 2; ++head) {
      std::set<uint32_t> keys = KeysOf(always, head, 0, p);
      EXPECT_EQ(keys.size(), MandatoryKeys(shape, p)) << p;
      for (uint32_t key : KeysOf(routed, head, 0, p)) EXPECT_TRUE(keys.insert(key).second) << p;
      EXPECT_EQ(keys.size(), p + 1) << p;
      EXPECT_EQ(*keys.rbegin(), p);
    }
    EXPECT_EQ(SelectedKeys(shape, 1, everything), 2 * (p + 1 - MandatoryKeys(shape, p)));
  }
}

TEST(AttendPlanTest, NoRunReachesPastTheLastRow) {
  Blocks blocks;
  QueryBlock block;
  PlanMandatory(Shape(), 0, 18, 64, std::ref(blocks), &block);  // positions 64 to 81
  const KvRun& last = block.runs[0].back();
  EXPECT_EQ(last.position, 80u);
  EXPECT_EQ(last.tokens, 2u);
}

TEST(AttendPlanTest, RunsPointAtTheirTokens) {
  const AttendShape shape = Shape();
  Blocks blocks;
  QueryBlock block;
  PlanRouted(shape, 0, 64, {{{9, 5}}, {}}, std::ref(blocks), &block);
  ASSERT_EQ(block.runs[0].size(), 1u);
  EXPECT_TRUE(block.runs[1].empty());
  const KvRun& run = block.runs[0][0];
  EXPECT_EQ(run.k, blocks(2) + shape.geometry.k_row(0, 16));
  EXPECT_EQ(run.v, blocks(2) + shape.geometry.v_row(0, 16));
  EXPECT_EQ(run.position, 144u);
  EXPECT_EQ(run.first_row, 5u);
}

TEST(AttendPlanTest, RoutedRangeBeginsAfterTheWindow) {
  EXPECT_TRUE(RoutedChunks(Shape(), 4).empty());
  EXPECT_TRUE(RoutedChunks(Shape(), 5).empty());  // only the sink lies before the window
  EXPECT_EQ(RoutedChunks(Shape(), 6).end, 2u);
  EXPECT_EQ(MandatoryChunks(Shape(), 6), (std::vector<uint32_t>{0, 2, 3, 4, 5, 6}));
  EXPECT_EQ(MandatoryChunks(Shape(), 0), (std::vector<uint32_t>{0}));
}

TEST(AttendPlanTest, BudgetHasFloorAndCapAndNeverExceedsTheRange) {
  const AttendShape shape = Shape();
  BudgetOptions budget{0.1f, 32, 64};
  EXPECT_EQ(BudgetGroups(shape, budget, 100), 0u);
  EXPECT_EQ(BudgetGroups(shape, budget, 384), 3u);    // 39 tokens
  EXPECT_EQ(BudgetGroups(shape, budget, 64000), 4u);  // the cap
  budget = {0.01f, 32, 64};
  EXPECT_EQ(BudgetGroups(shape, budget, 384), 2u);  // the floor
  budget = {0.01f, 4096, 4096};
  EXPECT_EQ(BudgetGroups(shape, budget, 384), 4u);  // all there is
  budget = {1.0f, 16, 16};
  EXPECT_EQ(BudgetGroups(shape, budget, 6400), (100u - 4 - 1) * 4);  // a full budget knows no cap
}

TEST(AttendPlanTest, SelectedChunksAreDistinctAndAscend) {
  EXPECT_EQ(SelectedChunks(Shape(), {{{4, 0}, {5, 0}, {40, 1}}, {{3, 0}, {42, 0}}}),
            (std::vector<uint32_t>{0, 1, 10}));
}

}  // namespace
}  // namespace hga
