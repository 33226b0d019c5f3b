#include "common/kv/sketch_deal.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
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

TEST(SketchDealTest, WideChannelsAreThoseWithMost) {
  std::vector<ChannelEnergy> energies(24, {100, 100});
  for (uint32_t c = 0; c < 8; ++c) energies[23 - 2 * c] = {static_cast<uint8_t>(120 + c), 128};
  const SketchDeal deal = DealBits(energies);
  EXPECT_EQ(deal.wide, (std::vector<uint8_t>{9, 11, 13, 15, 17, 19, 21, 23}));
  uint32_t bits = 0;
  for (const uint8_t c : deal.wide) bits += deal.count[c];
  EXPECT_EQ(deal.wide_bits.size(), bits);
  for (const SketchDeal::WideBit& wide : deal.wide_bits) EXPECT_EQ(deal.bits[wide.bit].channel, deal.wide[wide.wide]);
}

// No token of a chunk scores above its centre and its extents, where all channels are wide ones; one in each direction
// reaches them.
TEST(SketchDealTest, ExtentsBoundTheScoresOfTokens) {
  std::vector<ChannelEnergy> energies;
  for (uint8_t c = 0; c < kWideChannels; ++c) energies.push_back({static_cast<uint8_t>(120 + 2 * c), 130});
  const SketchDeal deal = DealBits(energies);
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<bf16> keys(64 * kWideChannels);
  for (bf16& x : keys) x = ToBf16(1 + normal(random));
  std::vector<const bf16*> rows;
  for (uint32_t t = 0; t < 64; ++t) rows.push_back(&keys[t * kWideChannels]);
  std::vector<uint8_t> centre(SketchCentreBytes(kWideChannels)), tokens(SketchTokenBytes(kWideChannels));
  MakeSketch(rows.data(), 64, kWideChannels, &deal, centre.data(), tokens.data());
  int16_t extents[kExtents];
  SketchExtents(deal, centre.data(), tokens.data(), extents);
  SketchScales scales;
  std::memcpy(&scales, &centre[kWideChannels], sizeof(scales));
  for (uint32_t turn = 0; turn < 20; ++turn) {
    std::vector<float> query(kWideChannels);
    for (float& x : query) x = turn < 2 ? 0.0f : normal(random);
    if (turn < 2) query[3] = turn == 0 ? 1.0f : -1.0f;
    double most = 0, size = 0;
    for (uint32_t i = 0; i < kWideChannels; ++i) {
      const float q = query[deal.wide[i]];
      most += std::fabs(q) * extents[q > 0 ? i : kWideChannels + i] * scales.centre;
      size += std::fabs(q) * scales.centre;
    }
    std::vector<float> weights = query;
    WeighForSketch(&deal, kWideChannels, weights.data());
    double best = -1e9;
    for (uint32_t t = 0; t < 64; ++t) {
      best = std::max(best, SketchScore(weights.data(), 0, centre.data(), tokens.data(), t, kWideChannels));
    }
    EXPECT_LE(best, most + size);
    if (turn < 2) {
      EXPECT_NEAR(best, most, size);
    }
  }
}

TEST(SketchDealTest, ExtentsOfACentreWithoutSizeAreTheMostThereIs) {
  const SketchDeal deal = DealBits(std::vector<ChannelEnergy>(16, {128, 128}));
  std::vector<uint8_t> centre(SketchCentreBytes(16)), tokens(SketchTokenBytes(16), 0x55);
  for (const float scale : {0.0f, std::nanf(""), std::numeric_limits<float>::infinity()}) {
    const SketchScales scales = {scale, 1};
    std::memcpy(&centre[16], &scales, sizeof(scales));
    int16_t extents[kExtents];
    SketchExtents(deal, centre.data(), tokens.data(), extents);
    for (const int16_t x : extents) {
      EXPECT_GE(x, 0);
      EXPECT_LE(x, kMostExtent);
    }
  }
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
