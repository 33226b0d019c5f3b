#include "router/index/sketch_score.h"

#include <algorithm>
#include <cmath>

#include "common/kv/route_fixture.h"
#include "common/kv/sketch.h"
#include "gtest/gtest.h"
#include "router/index/centre_score.h"

namespace hga {
namespace {

// Against the records read back, for every number of heads and odd head sizes.
void CheckEstimates(const std::string& name) {
  for (uint32_t head_dim : {8u, 24u, 64u, 80u, 128u, 256u}) {
    for (uint32_t heads : {1u, 2u, 3u, 4u, 7u, 16u}) {
      KvGeometry g = SmallGeometry(heads, head_dim, 1);
      g.layers = 1;
      const SummaryMethod* m = *FindSummaryMethod(name, g, MadeUpEnergies(g));
      const SketchDeal* deal = m->deal(0, 0);
      ASSERT_EQ(deal != nullptr, name == "dealt");
      constexpr uint32_t kChunks = 3;
      std::vector<uint8_t> centres, tokens;
      std::vector<const uint8_t*> records;
      for (uint32_t i = 0; i < kChunks; ++i) {
        const std::string data = SummaryData(g, *m, i);
        centres.insert(centres.end(), data.begin(), data.begin() + m->coarse_bytes(g));
        tokens.insert(tokens.end(), data.begin() + m->coarse_bytes(g), data.end());
      }
      for (uint32_t i = 0; i < kChunks + kRecordsAhead; ++i) {
        records.push_back(tokens.data() + std::min(i, kChunks - 1) * m->fine_bytes(g));
      }
      std::vector<float> values;
      for (bf16 x : RandomBf16(size_t{heads} * head_dim, head_dim)) values.push_back(ToFloat(x));
      const ScoreQueries queries = {values.data(), heads, head_dim};
      SketchTables tables;
      MakeSketchTables(queries, deal, &tables);
      std::vector<float> base(heads * 16), scores(heads * 256);
      CentreQueries rounded;
      RoundQueries(values.data(), heads, head_dim, nullptr, &rounded);
      ScoreCentres(rounded, {centres.data()}, kChunks, {}, base.data(), 16);
      ScoreTokens(tables, head_dim, 0, heads, centres.data(), records.data(), kChunks, 64, base.data(), 16,
                  scores.data(), 256);

      // By parts: the same.
      const uint32_t first = heads / 2;
      std::vector<float> part((heads - first) * 256);
      ScoreTokens(tables, head_dim, first, heads - first, centres.data(), records.data(), kChunks, 64,
                  base.data() + first * 16, 16, part.data(), 256);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), scores.begin() + first * 256));

      std::vector<float> centre(head_dim);
      for (uint32_t h = 0; h < heads; ++h) {
        const float* query = values.data() + h * head_dim;
        std::vector<float> weights(query, query + head_dim);
        const double spread = WeighForSketch(deal, head_dim, weights.data());
        for (uint32_t t = 0; t < kChunks * 64; ++t) {
          const uint8_t* c = centres.data() + t / 64 * m->coarse_bytes(g);
          SketchCentre(c, head_dim, centre.data());
          const uint8_t* of_chunk = tokens.data() + t / 64 * m->fine_bytes(g);
          double expected = SketchScore(weights.data(), spread, c, of_chunk, t % 64, head_dim);
          for (uint32_t d = 0; d < head_dim; ++d) expected += double{query[d]} * centre[d];
          // Each of head_dim / 4 entries is rounded; the scale of a token of a normal distribution is about 0.8,
          // and 1 or less of one whose bits are dealt out by other energies.
          const double tolerance = tables.step[h] * std::sqrt(head_dim / 4.0) * 2;
          EXPECT_NEAR(scores[h * 256 + t], expected, tolerance + 1e-4 * std::fabs(expected)) << head_dim;
        }
      }
    }
  }
}

TEST(SketchScoreTest, TablesGiveTheEstimateToWithinTheirStep) {
  WithEachInstructionSet([] {
    CheckEstimates("sketch");
    CheckEstimates("dealt");
  });
}

TEST(SketchScoreTest, ZeroAndNotFiniteQueriesGiveNoNumbersOutOfRange) {
  std::vector<float> values = {0, 0, 0, 0, 0, 0, 0, 0, INFINITY, 1, 1, 1, 1, 1, 1, 1};
  SketchTables tables;
  MakeSketchTables({values.data(), 2, 8}, nullptr, &tables);
  for (uint32_t h = 0; h < 2; ++h) {
    EXPECT_EQ(tables.step[h], 0);
    EXPECT_EQ(tables.offset[h], 0);
    EXPECT_EQ(tables.spread[h], 0);
  }
}

}  // namespace
}  // namespace hga
