#include "common/kv/sketch_deal.h"

#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "common/kv/sketch.h"
#include "common/kv/summary.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(SketchDealTest, BitsGoToWhereQueriesAndKeysHaveMuch) {
  std::vector<ChannelEnergy> energies(16, {128, 128});
  energies[3] = {160, 160};  // 2^16 times the product
  energies[5] = {100, 100};
  const SketchDeal deal = DealBits(energies);
  EXPECT_EQ(std::accumulate(deal.count.begin(), deal.count.end(), 0), 16);
  EXPECT_EQ(deal.count[3], 4);
  EXPECT_EQ(deal.count[5], 0);
  EXPECT_EQ(deal.left[5], std::exp2(-7.0f));  // all that is there
  // Each bit once, and the heaviest first, in fours of their own.
  std::set<std::pair<int, int>> seen;
  for (const SketchDeal::Bit& bit : deal.bits) {
    EXPECT_LT(bit.level, deal.count[bit.channel]);
    seen.insert({bit.channel, bit.level});
  }
  EXPECT_EQ(seen.size(), 16u);
  for (uint32_t four = 0; four < 4; ++four) {
    EXPECT_EQ(deal.bits[4 * four].channel, 3);
    EXPECT_EQ(deal.bits[4 * four].level, 3 - four);
  }
}

TEST(SketchDealTest, EqualChannelsHaveABitEach) {
  const SketchDeal deal = DealBits(std::vector<ChannelEnergy>(64, {140, 90}));
  for (const uint8_t count : deal.count) EXPECT_EQ(count, 1);
}

TEST(SketchDealTest, EnergyLogsAreQuarterOctaves) {
  EXPECT_EQ(EnergyLog(1), 128);
  EXPECT_EQ(EnergyLog(2), 132);
  EXPECT_EQ(EnergyLog(0.5), 124);
  EXPECT_EQ(EnergyLog(1e30), 255);
  EXPECT_EQ(EnergyLog(1e-30), 0);
  for (const double none : {0.0, -1.0, std::nan("")}) EXPECT_EQ(EnergyLog(none), 0);
}

TEST(SketchDealTest, PlansAreOfOneModelAndNamedByWhatTheyHold) {
  KvGeometry g;
  g.layers = 2;
  g.kv_heads = 1;
  g.query_heads = 1;
  g.head_dim = 8;
  std::string energies(2 * 8 * 2, '\x80');
  EXPECT_EQ(FindSummaryMethod("dealt", g, "short").status().code(), absl::StatusCode::kInvalidArgument);
  const SummaryMethod* one = *FindSummaryMethod("dealt", g, energies);
  EXPECT_EQ(one, *FindSummaryMethod(one->name, g, energies));
  energies[16] = '\x90';  // of the second layer
  const SummaryMethod* other = *FindSummaryMethod("dealt", g, energies);
  EXPECT_NE(one->name, other->name);
  EXPECT_EQ(FindSummaryMethod(one->name, g, energies).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(other->deal(0, 0)->count[0], 1);
  EXPECT_EQ(other->deal(1, 0)->count[0], 3);
  EXPECT_EQ(*FindSummaryMethod("sketch", g, ""), *FindSummaryMethod("sketch"));
}

// The error of scores, in standard deviations of theirs, of queries and keys with such energies.
double ScoreError(const SketchDeal* deal, const std::vector<ChannelEnergy>& energies) {
  const auto head_dim = static_cast<uint32_t>(energies.size());
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const auto vector = [&](bool query) {
    std::vector<bf16> x(head_dim);
    for (uint32_t c = 0; c < head_dim; ++c) {
      const int log = query ? energies[c].query : energies[c].key;
      x[c] = ToBf16(normal(random) * std::exp2((log - 128) / 8.0f));
    }
    return x;
  };
  std::vector<std::vector<bf16>> keys;
  std::vector<const bf16*> rows;
  for (uint32_t t = 0; t < kSketchTokens; ++t) keys.push_back(vector(false));
  for (const auto& key : keys) rows.push_back(key.data());
  std::vector<uint8_t> centre(SketchCentreBytes(head_dim)), tokens(SketchTokenBytes(head_dim));
  MakeSketch(rows.data(), kSketchTokens, head_dim, deal, centre.data(), tokens.data());
  std::vector<float> mean(head_dim), query(head_dim);
  SketchCentre(centre.data(), head_dim, mean.data());
  double error = 0, all = 0;
  for (int i = 0; i < 20; ++i) {
    const std::vector<bf16> q = vector(true);
    for (uint32_t c = 0; c < head_dim; ++c) query[c] = ToFloat(q[c]);
    // Without what stands for the spread, which is the same for equally long keys.
    std::vector<float> weights = query;
    WeighForSketch(deal, head_dim, weights.data());
    std::vector<float> signs(head_dim);
    for (uint32_t t = 0; t < kSketchTokens; ++t) {
      SketchToken(centre.data(), tokens.data(), t, head_dim, signs.data());
      double read = 0, exact = 0;
      for (uint32_t c = 0; c < head_dim; ++c) {
        read += double{weights[c]} * signs[c];
        exact += double{query[c]} * (ToFloat(keys[t][c]) - mean[c]);
      }
      error += (read - exact) * (read - exact);
      all += exact * exact;
    }
  }
  return std::sqrt(error / all);
}

TEST(SketchDealTest, DealtBitsReadScoresBetterThanOneForEachRotatedChannel) {
  for (const uint32_t head_dim : {16u, 64u, 128u, 256u}) {
    std::vector<ChannelEnergy> energies(head_dim, {110, 115});
    for (uint32_t c = 0; c < head_dim; c += 8) energies[c] = {134, 131};
    const SketchDeal deal = DealBits(energies);
    const double dealt = ScoreError(&deal, energies), rotated = ScoreError(nullptr, energies);
    EXPECT_LT(dealt, 0.2) << head_dim;
    EXPECT_LT(dealt, rotated / 2) << head_dim;
  }
}

TEST(SketchDealTest, EqualAndHugeKeysGiveFiniteRecords) {
  const std::vector<ChannelEnergy> energies(16, {255, 255});
  const SketchDeal deal = DealBits(energies);
  std::vector<bf16> equal(16, ToBf16(3)), huge(16, ToBf16(1e38f));
  for (const auto* second : {&equal, &huge}) {
    const bf16* rows[] = {equal.data(), second->data()};
    std::vector<uint8_t> centre(SketchCentreBytes(16)), tokens(SketchTokenBytes(16), 0xFF);
    MakeSketch(rows, 2, 16, &deal, centre.data(), tokens.data());
    std::vector<float> signs(16);
    for (const uint32_t t : {0u, 1u, 2u}) {
      SketchToken(centre.data(), tokens.data(), t, 16, signs.data());
      for (const float x : signs) EXPECT_TRUE(std::isfinite(x));
    }
  }
}

}  // namespace
}  // namespace hga
