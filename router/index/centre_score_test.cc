#include "router/index/centre_score.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "common/kv/route_fixture.h"
#include "common/kv/sketch.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr float kLowest = -3e38f;

std::vector<uint8_t> MadeUpCentres(uint32_t count, uint32_t head_dim, std::mt19937* random) {
  std::vector<uint8_t> centres(count * SketchCentreBytes(head_dim));
  for (uint8_t& byte : centres) byte = static_cast<uint8_t>((*random)());
  for (uint32_t i = 0; i < count; ++i) {
    const SketchScales scales = {1e-3f * static_cast<float>(1 + (*random)() % 100), 1};
    std::memcpy(&centres[i * SketchCentreBytes(head_dim) + head_dim], &scales, sizeof(scales));
  }
  return centres;
}

std::vector<float> MadeUpQuery(size_t count, std::mt19937* random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& x : values) x = ToFloat(ToBf16(normal(*random)));
  return values;
}

// The same scores whatever the instruction set, and as near to the exact ones as 16 bits of a query are.
TEST(CentreScoreTest, ScoresAreThoseOfWholeNumbersOnEveryInstructionSet) {
  std::mt19937 random(1);
  for (uint32_t head_dim : {8u, 24u, 64u, 80u, 128u, 256u}) {
    SketchDeal deal;
    for (uint32_t i = 0; i < kWideChannels; ++i) deal.wide.push_back(static_cast<uint8_t>(5 * i % head_dim));
    for (uint32_t heads : {1u, 2u, 3u, 4u, 7u, 16u}) {
      for (uint32_t count : {1u, 3u, 64u, 131u}) {
        const bool with = random() % 2 == 0;
        const std::vector<uint8_t> centres = MadeUpCentres(count, head_dim, &random);
        const std::vector<float> queries = MadeUpQuery(size_t{heads} * head_dim, &random);
        CentreQueries rounded;
        RoundQueries(queries.data(), heads, head_dim, with ? &deal : nullptr, &rounded);
        const size_t stride = count + 5;
        std::vector<int16_t> extents(size_t{count} * kExtents);
        for (int16_t& x : extents) x = static_cast<int16_t>(random() % (kMostExtent + 1));
        const CentreRun run = {centres.data(), with ? extents.data() : nullptr};
        WithEachInstructionSet([&] {
          std::vector<float> scores(heads * stride, 7);
          ScoreCentres(rounded, run, count, run, scores.data(), stride);
          for (uint32_t h = 0; h < heads; ++h) {
            for (uint32_t i = 0; i < count; ++i) {
              const uint8_t* centre = &centres[i * SketchCentreBytes(head_dim)];
              SketchScales scales;
              std::memcpy(&scales, centre + head_dim, sizeof(scales));
              int32_t sum = 0;
              double exact = 0, size = 0;
              for (uint32_t d = 0; d < head_dim; ++d) {
                const auto channel = static_cast<int8_t>(centre[d]);
                sum += rounded.values[h * head_dim + d] * channel;
                exact += double{queries[h * head_dim + d]} * channel * scales.centre;
                size += std::abs(channel) * scales.centre;
              }
              for (uint32_t w = 0; with && w < kWideChannels; ++w) {
                const int16_t value = rounded.values[h * head_dim + deal.wide[w]];
                const int16_t extent = extents[(i * 2 + (value < 0)) * kWideChannels + w];
                sum += std::abs(value) * extent;
                exact += std::fabs(double{queries[h * head_dim + deal.wide[w]]}) * extent * scales.centre;
                size += extent * scales.centre;
              }
              EXPECT_EQ(scores[h * stride + i], static_cast<float>(sum) * (rounded.steps[h] * scales.centre));
              EXPECT_NEAR(scores[h * stride + i], exact, rounded.steps[h] * size);
            }
            for (size_t i = count; i < stride; ++i) EXPECT_EQ(scores[h * stride + i], 7);
          }
        });
      }
    }
  }
}

TEST(CentreScoreTest, QueriesWithoutSizeOrThatAreNoNumbersScoreNothing) {
  std::mt19937 random(2);
  const std::vector<uint8_t> centres = MadeUpCentres(9, 8, &random);
  for (float bad : {0.0f, INFINITY, -INFINITY, NAN, 1e-45f, std::numeric_limits<float>::max()}) {
    std::vector<float> query(8, bad == 0 || std::fabs(bad) < 1 ? 0.0f : 1.0f);
    query[3] = bad;
    query[4] = bad;
    CentreQueries rounded;
    RoundQueries(query.data(), 1, 8, nullptr, &rounded);
    EXPECT_EQ(rounded.steps[0], 0) << bad;
    WithEachInstructionSet([&] {
      float scores[9];
      ScoreCentres(rounded, {centres.data()}, 9, {}, scores, 9);
      for (float score : scores) EXPECT_EQ(score, 0) << bad;
    });
  }
}

TEST(CentreScoreTest, ARecordWhoseScaleIsNoNumberIsTheWorst) {
  std::mt19937 random(3);
  for (uint32_t head_dim : {8u, 128u}) {
    std::vector<uint8_t> centres = MadeUpCentres(20, head_dim, &random);
    std::fill_n(centres.begin() + 17 * SketchCentreBytes(head_dim), head_dim, uint8_t{1});
    const float nan = NAN;
    for (uint32_t i : {2u, 17u}) std::memcpy(&centres[i * SketchCentreBytes(head_dim) + head_dim], &nan, sizeof(nan));
    const std::vector<float> query = MadeUpQuery(head_dim, &random);
    CentreQueries rounded;
    RoundQueries(query.data(), 1, head_dim, nullptr, &rounded);
    WithEachInstructionSet([&] {
      float scores[20];
      ScoreCentres(rounded, {centres.data()}, 20, {}, scores, 20);
      for (uint32_t i = 0; i < 20; ++i) EXPECT_EQ(scores[i] == kLowest, i == 2 || i == 17) << i;
    });
  }
}

}  // namespace
}  // namespace hga
