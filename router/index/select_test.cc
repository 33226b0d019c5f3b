#include "router/index/select.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <memory>
#include <set>

#include "gtest/gtest.h"
#include "router/index/index_fixture.h"

namespace hga {
namespace {

std::unique_ptr<SequenceIndex> MakeIndex(const KvGeometry& g, const std::string& method, uint32_t chunks) {
  const SummaryMethod* m = *FindSummaryMethod(method);
  auto index = std::make_unique<SequenceIndex>(g, m);
  const auto hashes = MadeUpChunks(chunks);
  for (uint32_t i = 0; i < chunks; ++i) {
    const auto data = RandomBf16(SummaryElements(g, *m), 1000 + i);
    EXPECT_TRUE(index->Append(i, hashes[i], data).ok());
  }
  return index;
}

std::vector<HeadSelection> RunSelect(const SequenceIndex& index, uint32_t layer, const RouteBlock& block,
                                     uint32_t overprovision = 4) {
  SelectScratch scratch;
  std::vector<HeadSelection> heads(index.geometry().kv_heads);
  Select(index, layer, block, overprovision, &scratch, heads.data());
  return heads;
}

// Groups that are in one selection only, whatever their first token.
size_t Difference(const HeadSelection& a, const HeadSelection& b) {
  std::set<uint32_t> in_a, in_b;
  for (const SelectedGroup& s : a) in_a.insert(s.group);
  for (const SelectedGroup& s : b) in_b.insert(s.group);
  std::vector<uint32_t> apart;
  std::set_symmetric_difference(in_a.begin(), in_a.end(), in_b.begin(), in_b.end(), std::back_inserter(apart));
  return apart.size();
}

class SelectReferenceTest : public testing::TestWithParam<std::string> {};

TEST_P(SelectReferenceTest, FastEqualsPlainLoops) {
  size_t selected = 0, apart = 0;
  for (uint32_t queries_per_kv_head : {1, 2, 3, 4, 8}) {
    for (uint32_t head_dim : {8, 24, 64}) {
      const KvGeometry g = SmallGeometry(queries_per_kv_head, head_dim);
      const auto index = MakeIndex(g, GetParam(), 131);  // three segments
      for (const auto& [tokens, first, upto, budget] :
           {std::array<uint32_t, 4>{1, 0, 131, 7}, {1, 2, 65, 40}, {15, 63, 64, 1}, {17, 1, 130, 16}, {3, 5, 5, 9}}) {
        const QueryBlock q(g, tokens, first, upto, budget, head_dim + tokens);
        const auto fast = RunSelect(*index, 1, q.block);
        const auto reference = SelectReference(*index, 1, q.block, 4);
        for (uint32_t h = 0; h < g.kv_heads; ++h) {
          selected += reference[h].size();
          apart += Difference(fast[h], reference[h]);
        }
      }
    }
  }
  EXPECT_GT(selected, 1000u);
  // Float and double may order near-equal scores differently, no more.
  EXPECT_LE(apart, selected / 500);
}

INSTANTIATE_TEST_SUITE_P(Methods, SelectReferenceTest, testing::Values("mean", "cuboid"));

TEST(SelectTest, EqualScoresTakeTheLowerIndex) {
  const KvGeometry g = SmallGeometry();
  const SummaryMethod* m = *FindSummaryMethod("mean");
  SequenceIndex index(g, m);
  const auto hashes = MadeUpChunks(100);
  for (uint32_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(index.Append(i, hashes[i], std::vector<bf16>(SummaryElements(g, *m), ToBf16(0.5f))).ok());
  }
  const QueryBlock q(g, 1, 3, 100, 6, 1);
  const HeadSelection expected = {{12, 0}, {13, 0}, {14, 0}, {15, 0}, {16, 0}, {17, 0}};
  for (const HeadSelection& head : RunSelect(index, 0, q.block)) EXPECT_EQ(head, expected);
}

TEST(SelectTest, FullBudgetIsEverythingAndNoBudgetNothing) {
  const KvGeometry g = SmallGeometry();
  const auto index = MakeIndex(g, "mean", 10);
  QueryBlock q(g, 3, 2, 9, 0, 1);
  for (const HeadSelection& head : RunSelect(*index, 0, q.block)) EXPECT_TRUE(head.empty());
  q.budgets = {0, 28, 1};
  q.block.budget_groups = q.budgets.data();
  for (const HeadSelection& head : RunSelect(*index, 0, q.block)) {
    ASSERT_EQ(head.size(), 28u);
    for (uint32_t i = 0; i < 28; ++i) EXPECT_EQ(head[i], (SelectedGroup{8 + i, 1}));
  }
}

TEST(SelectTest, BudgetHoldsAndGroupsLieInTheRange) {
  const KvGeometry g = SmallGeometry(3, 24, 3);
  const auto index = MakeIndex(g, "cuboid", 90);
  for (uint32_t overprovision : {1, 4, 64}) {
    const QueryBlock q(g, 1, 4, 80, 11, 5);
    for (const HeadSelection& head : RunSelect(*index, 1, q.block, overprovision)) {
      ASSERT_EQ(head.size(), 11u);
      EXPECT_GE(head.front().group, 16u);
      EXPECT_LT(head.back().group, 320u);
    }
  }
}

TEST(SelectTest, LaterTokensChangeNothingForEarlierOnes) {
  const KvGeometry g = SmallGeometry();
  const auto index = MakeIndex(g, "mean", 120);
  const auto seen_by = [](const HeadSelection& head, uint32_t token) {
    std::vector<uint32_t> groups;
    for (const SelectedGroup& s : head) {
      if (s.first_token <= token) groups.push_back(s.group);
    }
    return groups;
  };
  QueryBlock q(g, 16, 0, 120, 9, 1);
  const auto before = RunSelect(*index, 0, q.block);
  // Other queries and another budget from token 10 on.
  const auto other = RandomBf16(q.queries.size(), 99);
  std::copy(other.begin() + 10 * g.query_heads * g.head_dim, other.end(),
            q.queries.begin() + 10 * g.query_heads * g.head_dim);
  q.budgets[12] = 480;
  const auto after = RunSelect(*index, 0, q.block);
  for (uint32_t h = 0; h < g.kv_heads; ++h) {
    for (uint32_t t = 0; t < 10; ++t) EXPECT_EQ(seen_by(before[h], t), seen_by(after[h], t));
    EXPECT_NE(before[h], after[h]);
    EXPECT_EQ(seen_by(before[h], 0).size(), 9u);
  }
  // And one token alone selects what it selects in a block.
  const RouteBlock alone = {1, 1, 0, 120, q.budgets.data(), q.queries.data()};
  EXPECT_EQ(seen_by(RunSelect(*index, 0, alone)[0], 0), seen_by(before[0], 0));
}

TEST(SelectTest, QueriesThatAreNotFiniteStayWithinTheBudget) {
  const KvGeometry g = SmallGeometry();
  const auto index = MakeIndex(g, "mean", 50);
  for (float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3e38f}) {
    QueryBlock q(g, 1, 0, 50, 5, 1);
    std::fill(q.queries.begin(), q.queries.end(), ToBf16(value));
    for (const HeadSelection& head : RunSelect(*index, 0, q.block)) EXPECT_EQ(head.size(), 5u);
  }
}

TEST(SequenceIndexTest, GapsAndOtherChunksAreRefusedAndRepeatsAreNot) {
  const KvGeometry g = SmallGeometry();
  const SummaryMethod* m = *FindSummaryMethod("mean");
  SequenceIndex index(g, m);
  const auto hashes = MadeUpChunks(3);
  const auto data = RandomBf16(SummaryElements(g, *m), 1);
  EXPECT_EQ(index.Append(1, hashes[1], data).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(index.Append(0, hashes[0], data).ok());
  EXPECT_TRUE(index.Append(0, hashes[0], data).ok());
  EXPECT_EQ(index.chunks(), 1u);
  EXPECT_EQ(index.Append(0, hashes[2], data).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(index.Append(1, hashes[1], absl::MakeConstSpan(data).subspan(1)).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hga
