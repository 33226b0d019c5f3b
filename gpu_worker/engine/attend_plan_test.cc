#include "gpu_worker/engine/attend_plan.h"

#include <map>
#include <set>

#include "common/kv/kv_rows.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

AttendShape Shape() {
  AttendShape shape;
  shape.geometry.layers = 1;
  shape.geometry.query_heads = 4;
  shape.geometry.kv_heads = 2;
  shape.geometry.head_dim = 8;
  shape.sink_tokens = 64;
  shape.window_chunks = 4;
  return shape;
}

// Blocks of as many chunks as are asked for.
class Blocks {
 public:
  bf16* operator()(uint32_t chunk) {
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

class SinkTest : public testing::TestWithParam<uint32_t> {};

TEST_P(SinkTest, AlwaysAndRoutedTogetherAreDenseAtEveryEdge) {
  AttendShape shape = Shape();
  shape.sink_tokens = GetParam();
  Blocks blocks;
  for (uint32_t p : {0u, 1u, 15u, 16u, 63u, 64u, 65u, 319u, 320u, 383u, 384u, 385u, 447u, 1000u}) {
    QueryBlock always, routed;
    PlanMandatory(shape, 3, 1, p, std::ref(blocks), &always);
    const ChunkRange range = RoutedChunks(shape, p / 64);
    std::vector<HeadSelection> everything(2);
    RouteBlock all;
    all.first_key = shape.sink_tokens;
    all.route_upto = range.end;
    for (auto& head : everything) SelectAll(shape.geometry, all, &head);
    EXPECT_EQ(everything[0].empty(), range.empty());
    PlanRouted(shape, 3, 1, everything, std::ref(blocks), &routed);
    EXPECT_EQ(always.first_row, 3u);
    for (uint32_t head = 0; head < 2; ++head) {
      std::set<uint32_t> keys = KeysOf(always, head, 0, p);
      EXPECT_EQ(keys.size(), MandatoryKeys(shape, p)) << p;
      for (uint32_t key : KeysOf(routed, head, 0, p)) EXPECT_TRUE(keys.insert(key).second) << p;
      EXPECT_EQ(keys.size(), p + 1) << p;
      EXPECT_EQ(*keys.rbegin(), p);
    }
    EXPECT_EQ(SelectedKeys(1, everything), 2 * (p + 1 - MandatoryKeys(shape, p)));
  }
}

INSTANTIATE_TEST_SUITE_P(Sinks, SinkTest, testing::Values(0, 16, 64, 80, 192));

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
  // Tokens 16 to 31 of chunk 2, and tokens 15 and 16 of chunk 3, which are in two groups.
  PlanRouted(shape, 0, 64, {{{2, 5, 0xFFFF0000}, {3, 5, 0x18000}}, {}}, std::ref(blocks), &block);
  ASSERT_EQ(block.runs[0].size(), 3u);
  EXPECT_TRUE(block.runs[1].empty());
  const KvRun& run = block.runs[0][0];
  EXPECT_EQ(run.k, blocks(2) + shape.geometry.k_row(0, 16));
  EXPECT_EQ(run.v, blocks(2) + shape.geometry.v_row(0, 16));
  EXPECT_EQ(run.position, 144u);
  EXPECT_EQ(run.tokens, 16u);
  EXPECT_EQ(run.first_row, 5u);
  for (uint32_t i : {1u, 2u}) {
    const uint32_t token = 14 + i;
    EXPECT_EQ(block.runs[0][i].k, blocks(3) + shape.geometry.k_row(0, token));
    EXPECT_EQ(block.runs[0][i].v, blocks(3) + shape.geometry.v_row(0, token));
    EXPECT_EQ(block.runs[0][i].position, 192u + token);
    EXPECT_EQ(block.runs[0][i].tokens, 1u);
  }
}

TEST(AttendPlanTest, RoutedRangeBeginsAfterTheWindow) {
  EXPECT_TRUE(RoutedChunks(Shape(), 4).empty());
  EXPECT_TRUE(RoutedChunks(Shape(), 5).empty());  // only the sink lies before the window
  EXPECT_EQ(RoutedChunks(Shape(), 6).end, 2u);
  AttendShape small = Shape();
  small.sink_tokens = 16;
  EXPECT_FALSE(RoutedChunks(small, 5).empty());   // the rest of chunk 0
  EXPECT_TRUE(OptionalChunks(small, 5).empty());  // but its sink is always needed
  EXPECT_EQ(OptionalChunks(small, 6).first, 1u);
  EXPECT_EQ(MandatoryChunks(Shape(), 6), (std::vector<uint32_t>{0, 2, 3, 4, 5, 6}));
  EXPECT_EQ(MandatoryChunks(Shape(), 0), (std::vector<uint32_t>{0}));
}

TEST(AttendPlanTest, BudgetHasFloorAndCapAndNeverExceedsTheRange) {
  const AttendShape shape = Shape();
  BudgetOptions budget{0.1f, 32, 64};
  EXPECT_EQ(BudgetKeys(shape, budget, 100), 0u);
  EXPECT_EQ(BudgetKeys(shape, budget, 384), 39u);
  EXPECT_EQ(BudgetKeys(shape, budget, 64000), 64u);  // the cap
  budget = {0.01f, 32, 64};
  EXPECT_EQ(BudgetKeys(shape, budget, 384), 32u);  // the floor
  budget = {0.01f, 4096, 4096};
  EXPECT_EQ(BudgetKeys(shape, budget, 384), 64u);  // all there is
  budget = {1.0f, 16, 16};
  EXPECT_EQ(BudgetKeys(shape, budget, 6400), (100u - 4 - 1) * 64);  // a full budget knows no cap
}

TEST(AttendPlanTest, BudgetGrowsByTheRootBeyondItsLinearTokens) {
  const AttendShape shape = Shape();
  const BudgetOptions budget{0.1f, 32, 4096, 8192};
  EXPECT_EQ(BudgetKeys(shape, budget, 8192), 820u);
  EXPECT_EQ(BudgetKeys(shape, budget, 4 * 8192), 1639u);
  EXPECT_EQ(BudgetKeys(shape, budget, 16 * 8192), 3277u);
  EXPECT_EQ(BudgetKeys(shape, budget, 1 << 20), 4096u);  // the cap
  BudgetOptions named = budget;
  named.KeepAsNamed();
  EXPECT_EQ(BudgetKeys(shape, named, 4 * 8192), 3277u);
}

TEST(AttendPlanTest, PrefillBudgetGrowsFromHalfToAllOverABlock) {
  AttendShape shape = Shape();
  const BudgetOptions budget{0.01f, 640, 640};
  EXPECT_EQ(PrefillBudgetKeys(shape, budget, 6400), 325u);
  EXPECT_EQ(PrefillBudgetKeys(shape, budget, 6431), 480u);
  EXPECT_EQ(PrefillBudgetKeys(shape, budget, 6463), 640u);
  EXPECT_EQ(PrefillBudgetKeys(shape, {1.0f, 16, 16}, 6400), (100u - 4 - 1) * 64);
  EXPECT_EQ(PrefillBudgetKeys(shape, budget, 100), 0u);
  shape.block_tokens = 16;
  EXPECT_EQ(PrefillBudgetKeys(shape, budget, 6400), 340u);
  EXPECT_EQ(PrefillBudgetKeys(shape, budget, 6415), 640u);
  EXPECT_EQ(PrefillBudgetKeys(shape, budget, 6416), 340u);
}

TEST(AttendPlanTest, SelectedChunksAreDistinctAndAscend) {
  EXPECT_EQ(SelectedChunks({{{1, 0, 1}, {1, 3, 2}, {10, 1, 4}}, {{0, 0, 1}, {10, 0, 8}}}),
            (std::vector<uint32_t>{0, 1, 10}));
}

TEST(KeysInCommonTest, CountsWhatBothSelect) {
  const std::vector<HeadSelection> a = {{{1, 0, 0b0111}, {4, 0, 0b1}, {9, 0, ~uint64_t{0}}}, {}};
  const std::vector<HeadSelection> b = {{{1, 0, 0b1100}, {5, 0, 0b1}, {9, 0, 0xff}}, {{1, 0, 0b1}}};
  EXPECT_EQ(KeysInCommon(a, b), 1u + 8u);
  EXPECT_EQ(KeysInCommon(b, a), 1u + 8u);
  EXPECT_EQ(KeysInCommon(a, a), 3u + 1u + 64u);
  EXPECT_EQ(KeysInCommon(a, {}), 0u);
}

TEST(AttendPlanTest, RunsOfInt8BeginWhereTheirFirstTokenLies) {
  AttendShape shape = Shape();
  shape.geometry.dtype = KvDtype::kInt8;
  const KvGeometry& g = shape.geometry;
  const std::vector<uint8_t> block(g.block_bytes());
  const auto block_of = [&](uint32_t) { return block.data(); };
  const auto expect_placed = [&](const QueryBlock& plan) {
    for (uint32_t head = 0; head < g.kv_heads; ++head) {
      for (const KvRun& run : plan.runs[head]) {
        const KvPlace place = PlaceInBlock(g, block.data(), head, run.position % g.chunk_tokens);
        EXPECT_EQ(run.k, place.k);
        EXPECT_EQ(run.v, place.v);
      }
    }
  };
  QueryBlock plan;
  PlanRouted(shape, 0, 1, {{{2, 0, 0xFFFF0000}, {3, 0, 0x8001A000}}, {{5, 0, 0x40}}}, block_of, &plan);
  EXPECT_EQ(plan.runs[0].size() + plan.runs[1].size(), 6u);
  expect_placed(plan);
  PlanMandatory(shape, 0, 1, 700, block_of, &plan);
  EXPECT_GT(plan.runs[1].size(), 4u);
  expect_placed(plan);
}

}  // namespace
}  // namespace hga
