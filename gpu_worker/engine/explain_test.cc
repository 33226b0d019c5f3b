#include "gpu_worker/engine/explain.h"

#include <cmath>
#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kChunks = 6, kPosition = kChunks * 64 - 20, kSinks = 16, kNeedle = 2 * 64 + 37;

class ExplainTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    g_.layers = 1;
    g_.kv_heads = 2;
    g_.query_heads = 4;
    g_.head_dim = 16;
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    query_.resize(size_t{g_.query_heads} * g_.head_dim);
    for (bf16& x : query_) x = ToBf16(normal(random));
    for (uint32_t c = 0; c < kChunks; ++c) {
      blocks_.emplace_back(g_.block_elements());
      for (bf16& x : blocks_.back()) x = ToBf16(normal(random));
    }
    // One key that the first KV head's queries agree on.
    for (uint32_t d = 0; d < g_.head_dim; ++d) {
      const float both = ToFloat(query_[d]) + ToFloat(query_[g_.head_dim + d]);
      blocks_[kNeedle / 64][g_.k_row(0, kNeedle % 64) + d] = ToBf16(2 * both);
    }
  }

  Explanation Run(const std::vector<HeadSelection>* selection, const RouteBlock* route = nullptr) {
    ExplainedQuery q;
    q.geometry = &g_;
    q.method = *FindSummaryMethod(GetParam());
    q.position = kPosition;
    q.query = query_.data();
    q.first_key = kSinks;
    q.routed = {0, kChunks - 2};
    q.selection = selection;
    q.route = route;
    return Explain(q, [&](uint32_t chunk) { return blocks_[chunk].data(); });
  }

  KvGeometry g_;
  std::vector<bf16> query_;
  std::vector<std::vector<bf16>> blocks_;
};

TEST_P(ExplainTest, SharesSumToOneAndSelectedKeysHaveTheirMass) {
  const std::vector<HeadSelection> selection = {{{0, 0, 0xFF0000}, {2, 0, uint64_t{1} << (kNeedle % 64)}}, {}};
  const Explanation e = Run(&selection);
  ASSERT_EQ(e.heads.size(), 2u);
  EXPECT_EQ(e.window_start, (kChunks - 2) * 64);
  for (const ExplainedHead& head : e.heads) {
    EXPECT_NEAR(head.always + head.selected + head.missed, 1, 1e-9);
    double mass = 0;
    for (const ExplainedChunk& chunk : head.chunks) mass += chunk.mass;
    EXPECT_NEAR(mass, head.selected + head.missed, 1e-9);
  }
  EXPECT_EQ(e.heads[0].keys, 9u);
  EXPECT_EQ(e.heads[0].chunks[0].keys, 8u);
  EXPECT_GT(e.heads[0].selected, 0.5);  // the needle
  EXPECT_EQ(e.heads[1].selected, 0);
  EXPECT_EQ(e.heads[1].estimated, 0);
}

TEST_P(ExplainTest, TellsTheLayersBudgetAndTheHeadsShares) {
  const std::vector<HeadSelection> selection = {{{0, 0, 0xFF0000}, {1, 0, 0xF}}, {{3, 0, 0xF}}};
  const uint32_t budget = 24;
  RouteBlock route;
  route.tokens = 1;
  route.first_key = kSinks;
  route.route_upto = kChunks - 2;
  route.budget_keys = &budget;
  route.shared = true;
  route.least_share = 0.25f;
  const Explanation e = Run(&selection, &route);
  EXPECT_EQ(e.budget_keys, budget);
  EXPECT_TRUE(e.shared);
  EXPECT_EQ(e.least_share, 0.25);
  EXPECT_EQ(e.heads[0].keys_share, 0.75);
  EXPECT_EQ(e.heads[1].keys_share, 0.25);
  const uint32_t everything = kEverything;
  route.budget_keys = &everything;
  EXPECT_EQ(Run(&selection, &route).budget_keys, (kChunks - 2) * 64 - kSinks);
}

TEST_P(ExplainTest, TheKeyThatStandsOutIsNamed) {
  const Explanation e = Run(nullptr);
  const std::vector<ExplainedChunk>& chunks = e.heads[0].chunks;
  ASSERT_EQ(chunks.size(), kChunks - 2);
  EXPECT_EQ(chunks[2].best_key, kNeedle);
  EXPECT_EQ(e.heads[0].keys, 0u);
  EXPECT_GT(e.heads[0].missed, 0.5);
  std::map<uint32_t, int> ranks;
  for (uint32_t c = 0; c < chunks.size(); ++c) {
    ++ranks[chunks[c].coarse_rank];
    EXPECT_LE(chunks[c].mass, chunks[2].mass);
    EXPECT_GE(chunks[c].best_key, std::max(c * 64, kSinks));
    EXPECT_LT(chunks[c].best_key, (c + 1) * 64);
  }
  EXPECT_EQ(ranks.size(), chunks.size());
  EXPECT_EQ(ranks.count(0), 0u);
}

// The mean of the highest exact score, by hand.
TEST_P(ExplainTest, ExactScoresAreThoseOfTheKeys) {
  const Explanation e = Run(nullptr);
  for (uint32_t kv_head = 0; kv_head < 2; ++kv_head) {
    double highest = -1e30;
    for (uint32_t h = 2 * kv_head; h < 2 * kv_head + 2; ++h) {
      for (uint32_t t = 0; t < 64; ++t) {
        double dot = 0;
        for (uint32_t d = 0; d < g_.head_dim; ++d) {
          dot += double{ToFloat(query_[h * g_.head_dim + d])} * ToFloat(blocks_[3][g_.k_row(kv_head, t) + d]);
        }
        highest = std::max(highest, dot / 4);  // sqrt(head_dim)
      }
    }
    EXPECT_NEAR(e.heads[kv_head].chunks[3].exact, highest, 1e-5);
  }
}

TEST_P(ExplainTest, AShortSequenceHasNothingToRoute) {
  ExplainedQuery q;
  q.geometry = &g_;
  q.method = *FindSummaryMethod(GetParam());
  q.position = 70;
  q.query = query_.data();
  q.first_key = kSinks;
  const Explanation e = Explain(q, [&](uint32_t chunk) { return blocks_[chunk].data(); });
  for (const ExplainedHead& head : e.heads) {
    EXPECT_NEAR(head.always, 1, 1e-9);
    EXPECT_TRUE(head.chunks.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, ExplainTest, testing::Values("sketch", "cuboid", "kmeans32-int8"));

// What is estimated from keys that a record holds exactly is what is true.
TEST(ExplainEstimateTest, EqualKeysAreEstimatedRight) {
  KvGeometry g;
  g.layers = g.kv_heads = g.query_heads = 1;
  g.head_dim = 8;
  std::vector<std::vector<bf16>> blocks(3, std::vector<bf16>(g.block_elements()));
  for (uint32_t c = 0; c < 3; ++c) {
    for (uint32_t t = 0; t < 64; ++t) {
      for (uint32_t d = 0; d < 8; ++d) blocks[c][g.k_row(0, t) + d] = ToBf16(static_cast<float>(c) / 2);
    }
  }
  const std::vector<bf16> query(8, ToBf16(1));
  ExplainedQuery q;
  q.geometry = &g;
  q.method = *FindSummaryMethod("mean");
  q.position = 191;
  q.query = query.data();
  q.routed = {0, 2};
  const std::vector<HeadSelection> selection = {{{1, 0, ~uint64_t{0}}}};
  q.selection = &selection;
  const Explanation e = Explain(q, [&](uint32_t chunk) { return blocks[chunk].data(); });
  EXPECT_NEAR(e.heads[0].selected, e.heads[0].estimated, 1e-6);
  for (const ExplainedChunk& chunk : e.heads[0].chunks) {
    EXPECT_NEAR(chunk.mass, chunk.estimated, 1e-6);
    EXPECT_NEAR(chunk.exact, chunk.fine, 1e-6);
    EXPECT_NEAR(chunk.exact, chunk.coarse, 1e-6);
  }
}

}  // namespace
}  // namespace hga
