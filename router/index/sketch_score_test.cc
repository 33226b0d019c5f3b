#include "router/index/sketch_score.h"

#include <algorithm>
#include <cmath>
#include <cstring>

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
      const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
      for (bf16 x : RandomBf16(size_t{heads} * head_dim, head_dim)) values.push_back(ToFloat(x) * scale);
      const ScoreQueries queries = {values.data(), heads, head_dim};
      SketchTables tables;
      MakeSketchTables(queries, deal, &tables);
      std::vector<float> base(heads * 16), references(heads);
      std::vector<uint16_t> weights(heads * 256);
      for (uint32_t h = 0; h < heads; ++h) references[h] = 3 * std::sin(static_cast<float>(h));
      CentreQueries rounded;
      RoundQueries(values.data(), heads, head_dim, nullptr, &rounded);
      ScoreCentres(rounded, {centres.data()}, kChunks, {}, base.data(), 16);
      WeighTokens(tables, head_dim, 0, heads, centres.data(), records.data(), kChunks, 64, base.data(), 16,
                  references.data(), weights.data(), 256);

      // By parts: the same.
      const uint32_t first = heads / 2;
      std::vector<uint16_t> part((heads - first) * 256);
      WeighTokens(tables, head_dim, first, heads - first, centres.data(), records.data(), kChunks, 64,
                  base.data() + first * 16, 16, references.data() + first, part.data(), 256);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), weights.begin() + first * 256));

      std::vector<float> centre(head_dim);
      for (uint32_t h = 0; h < heads; ++h) {
        const float* query = values.data() + h * head_dim;
        std::vector<float> of_bits(query, query + head_dim);
        const double spread = WeighForSketch(deal, head_dim, of_bits.data());
        float widest = 0;
        for (uint32_t d = 0; d < head_dim; d += 4) {
          widest = std::max(widest, std::fabs(of_bits[d]) + std::fabs(of_bits[d + 1]) + std::fabs(of_bits[d + 2]) +
                                        std::fabs(of_bits[d + 3]));
        }
        for (uint32_t t = 0; t < kChunks * 64; ++t) {
          const uint8_t* c = centres.data() + t / 64 * m->coarse_bytes(g);
          SketchCentre(c, head_dim, centre.data());
          const uint8_t* of_chunk = tokens.data() + t / 64 * m->fine_bytes(g);
          double expected = SketchScore(of_bits.data(), spread, c, of_chunk, t % 64, head_dim);
          for (uint32_t d = 0; d < head_dim; ++d) expected += double{query[d]} * centre[d];
          // Each of head_dim / 4 entries is rounded; the scale of a token of a normal distribution is about 0.8,
          // and 1 or less of one whose bits are dealt out by other energies. Then integers of 16 bits.
          const double tolerance = 2 * widest / kLargestEntry * std::sqrt(head_dim / 4.0) * 2 + 3 / kStepsPerNat;
          const double score = (weights[h * 256 + t] - kWeightOfReference) / kStepsPerNat + references[h];
          EXPECT_NEAR(score, expected, tolerance + 1e-3 * std::fabs(expected)) << head_dim;
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
    EXPECT_EQ(tables.zero[h], 0);
    EXPECT_EQ(tables.spread[h], 0);
  }
}

// One row of bits may be nearly all that a query looks for, or all rows alike: whatever the scores, they are exact to a
// few steps as long as they are within 177 nats, and beyond on the right side and in range.
TEST(SketchScoreTest, LargeScoresStayExactAndInRange) {
  for (const uint32_t head_dim : {8u, 24u, 64u, 80u, 128u, 256u}) {
    for (const bool alike : {false, true}) {
      const SummaryMethod* m = *FindSummaryMethod("sketch");
      KvGeometry g = SmallGeometry(1, head_dim, 1);
      std::string centre(m->coarse_bytes(g), '\0'), tokens(m->fine_bytes(g), '\0');
      for (uint32_t t = 0; t < kSketchTokens; ++t) tokens[t] = static_cast<char>(255 - 7 * (t % 32));
      // The first half of the tokens has all signs up, the other all down.
      for (size_t b = kSketchTokens; b < tokens.size(); ++b) tokens[b] = '\x0f';
      std::vector<float> query(head_dim, alike ? 1.0f : 0.0f);
      std::fill_n(query.begin(), 4, 1.0f);
      SketchDeal deal;
      deal.left.resize(head_dim);
      for (uint32_t c = 0; c < head_dim; ++c) deal.bits.push_back({static_cast<uint8_t>(c), 0, 1.0f});
      SketchTables tables;
      MakeSketchTables({query.data(), 1, head_dim}, &deal, &tables);
      for (const float nats : {0.1f, 3.0f, 12.0f, 40.0f, 80.0f, 160.0f, 1e20f}) {  // of the first token
        const float bits = static_cast<float>(alike ? head_dim : 4);
        const SketchScales scales = {1, nats / (255 * bits)};
        std::memcpy(centre.data() + head_dim, &scales, sizeof(scales));
        const std::vector<const uint8_t*> records(1 + kRecordsAhead, reinterpret_cast<const uint8_t*>(tokens.data()));
        const float base = 0, reference = 0;
        std::vector<uint16_t> weights(64);
        WithEachInstructionSet([&] {
          WeighTokens(tables, head_dim, 0, 1, reinterpret_cast<const uint8_t*>(centre.data()), records.data(), 1, 64,
                      &base, 1, &reference, weights.data(), 64);
          for (uint32_t t = 0; t < 64; ++t) {
            // The query's entries are whole: the table is exact.
            const double score = (t < 32 ? 1.0 : -1.0) * (255 - 7 * (t % 32)) * scales.token * bits * kStepsPerNat;
            const double exact = std::min<double>(std::max(kWeightOfReference + score, 0.0), kLargestWeight);
            if (nats < 1000) {
              EXPECT_NEAR(weights[t], exact, 3 + 1e-3 * std::fabs(score)) << head_dim << " " << alike << " " << nats;
            } else {
              EXPECT_LE(weights[t], kLargestWeight);
              EXPECT_EQ(weights[t] > kWeightOfReference, t < 32) << head_dim << " " << alike;
            }
          }
        });
      }
    }
  }
}

}  // namespace
}  // namespace hga
