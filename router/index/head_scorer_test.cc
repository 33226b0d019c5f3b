#include "router/index/head_scorer.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "common/kv/route_fixture.h"
#include "gtest/gtest.h"
#include "router/index/index_fixture.h"
#include "router/index/top_units.h"

namespace hga {
namespace {

constexpr uint32_t kLayer = 1;

std::vector<uint32_t> AllChunks(const HeadScorer& scorer) {
  std::vector<uint32_t> chunks(scorer.chunks());
  std::iota(chunks.begin(), chunks.end(), 0);
  return chunks;
}

// Shares of the chunks' units for a token.
std::vector<float> Shares(const HeadScorer& scorer, uint32_t token, uint32_t kv_head,
                          const std::vector<uint32_t>& chunks) {
  HeadScratch s;
  scorer.Load(token, 1, kv_head, nullptr, &s);
  scorer.ScoreCoarse(false, s, s.coarse_scores);
  std::vector<float> shares(scorer.fine_stride(chunks.size()));
  scorer.ScoreFine(chunks, &s, shares.data());
  shares.resize(chunks.size() * scorer.units_per_chunk());
  return shares;
}

// The same of `rows` tokens together, by what is kept: those from `least` on, zeros for the rest.
std::vector<std::vector<float>> Kept(const HeadScorer& scorer, uint32_t token, uint32_t rows, uint32_t kv_head,
                                     const std::vector<uint32_t>& chunks, float least) {
  HeadScratch s;
  scorer.Load(token, rows, kv_head, nullptr, &s);
  scorer.ScoreCoarse(false, s, s.coarse_scores);
  scorer.WeighFine(chunks, &s);
  const size_t units = chunks.size() * scorer.units_per_chunk();
  const std::vector<uint64_t> skip(chunks.size());
  std::vector<std::vector<float>> result;
  for (uint32_t r = 0; r < rows; ++r) {
    std::vector<float> kept(units + kSpareScores), shares(units);
    std::vector<uint32_t> places(units + kSpareScores);
    const uint32_t count = scorer.KeepFine(r, chunks.size(), least, skip.data(), s, kept.data(), places.data());
    for (uint32_t i = 0; i < count; ++i) {
      shares[places[i] / 64 * scorer.units_per_chunk() + places[i] % 64] = kept[i];
    }
    result.push_back(std::move(shares));
  }
  return result;
}

TEST(HeadScorerTest, KeepsEnoughChunksForTheBudget) {
  const KvGeometry g = SmallGeometry();
  const auto index = MakeIndex(g, "mean", 90);
  const MadeUpQueries q(g, 1, 5 * 64 + 16, 80, 1, 1);
  const SelectOptions few{3, 10};
  const HeadScorer scorer(*index, kLayer, q.block, few);
  EXPECT_EQ(scorer.first_chunk(), 5u);
  EXPECT_EQ(scorer.chunks(), 75u);
  EXPECT_EQ(scorer.kept_chunks(0), 10u);
  EXPECT_EQ(scorer.kept_chunks(10 * 64 / 3), 10u);
  EXPECT_EQ(scorer.kept_chunks(10 * 64 / 3 + 1), 11u);
  EXPECT_EQ(scorer.kept_chunks(75 * 64), 75u);
  EXPECT_EQ(scorer.kept_chunks(UINT32_MAX), 75u);
}

TEST(HeadScorerTest, UnitsAndTheirKeys) {
  const KvGeometry g = SmallGeometry();
  const MadeUpQueries q(g, 1, 0, 2, 1, 1);
  const SelectOptions options;
  const auto groups = MakeIndex(g, "mean", 2);  // units of 16 tokens
  const HeadScorer of_groups(*groups, kLayer, q.block, options);
  ASSERT_EQ(of_groups.units_per_chunk(), 4u);
  EXPECT_EQ(of_groups.KeysOf(0b1010), 0xFFFF0000FFFF0000u);
  EXPECT_EQ(of_groups.UnitsOf(0xFFFF0000FFFF0000u), 0b1010u);
  EXPECT_EQ(of_groups.UnitsOf(0x7FFF800000000000u), 0b0100u);
  const auto tokens = MakeIndex(g, "sketch", 2);
  const HeadScorer of_tokens(*tokens, kLayer, q.block, options);
  EXPECT_EQ(of_tokens.KeysOf(0x8000000000000001u), 0x8000000000000001u);
  EXPECT_EQ(of_tokens.UnitsOf(0x8000000000000001u), 0x8000000000000001u);
}

// The best chunks by the mean softmax of their coarse scores, in order.
TEST(HeadScorerTest, ChoosesTheBestChunks) {
  const KvGeometry g = SmallGeometry(3, 24);
  const auto index = MakeIndex(g, "sketch", 150);  // three segments
  const MadeUpQueries q(g, 1, 70 * 64, 150, 1, 1);
  const SelectOptions options;
  const HeadScorer scorer(*index, kLayer, q.block, options);
  HeadScratch s;
  std::vector<uint32_t> chosen;
  scorer.Load(0, 1, 1, nullptr, &s);
  scorer.ChooseChunks(20, true, &s, &chosen);
  std::vector<double> pooled(scorer.chunks());
  const size_t stride = scorer.coarse_stride();
  for (uint32_t h = 0; h < 3; ++h) {
    double sum = 0;
    for (uint32_t c = 0; c < scorer.chunks(); ++c) sum += std::exp(s.coarse_scores[h * stride + c]);
    for (uint32_t c = 0; c < scorer.chunks(); ++c) pooled[c] += std::exp(s.coarse_scores[h * stride + c]) / sum;
  }
  ASSERT_EQ(chosen.size(), 20u);
  EXPECT_TRUE(std::is_sorted(chosen.begin(), chosen.end()));
  std::vector<double> sorted = pooled;
  std::sort(sorted.rbegin(), sorted.rend());
  // Weights are within 3.5 percent.
  for (const uint32_t chunk : chosen) EXPECT_GE(pooled[chunk], 0.94 * sorted[19]);
  scorer.ChooseChunks(80, false, &s, &chosen);
  EXPECT_EQ(chosen, AllChunks(scorer));
}

// A chunk is kept for one key that a query wants, though its centre is like the others'; what the centres score is as
// it was.
TEST(HeadScorerTest, OneKeyThatReachesFarBringsItsChunk) {
  KvGeometry g = SmallGeometry(2, 16, 1);
  g.layers = 1;
  std::string energies;
  for (uint32_t d = 0; d < g.head_dim; ++d) energies += d == 5 ? "\x90\x90" : "\x80\x80";
  const SummaryMethod* m = *FindSummaryMethod("dealt", g, energies);
  SequenceIndex index(g, m);
  const auto hashes = MadeUpChunks(40);
  for (uint32_t i = 0; i < 40; ++i) {
    std::vector<bf16> block = RandomBf16(g.block_elements(), i);
    if (i == 23) block[g.k_row(0, 11) + 5] = ToBf16(30);
    if (i == 31) block[g.k_row(0, 12) + 5] = ToBf16(-30);
    std::string data(m->chunk_bytes(g), '\0');
    SummarizeBlock(g, *m, 0, block.data(), reinterpret_cast<uint8_t*>(data.data()));
    ASSERT_TRUE(index.Append(i, hashes[i], data).ok());
  }
  MadeUpQueries q(g, 1, 0, 40, 1, 1);
  const SelectOptions options;
  for (const float sign : {1.0f, -1.0f}) {
    for (uint32_t h = 0; h < 2; ++h) q.queries[h * g.head_dim + 5] = ToBf16(4 * sign);
    const HeadScorer scorer(index, 0, q.block, options);
    HeadScratch s;
    std::vector<uint32_t> chosen;
    scorer.Load(0, 1, 0, nullptr, &s);
    scorer.ChooseChunks(2, false, &s, &chosen);
    EXPECT_EQ(std::count(chosen.begin(), chosen.end(), sign > 0 ? 23u : 31u), 1);
    std::vector<float> centres(2 * scorer.coarse_stride());
    scorer.ScoreCoarse(false, s, centres.data());
    for (const uint32_t chunk : chosen) EXPECT_EQ(s.coarse_scores[chunk], centres[chunk]);
  }
}

// With what is attended anyway, the shares of a KV head sum to 1; keys before the range have none.
TEST(HeadScorerTest, SharesAreOfTheAttention) {
  for (const char* method : {"sketch", "cuboid", "mean"}) {
    const KvGeometry g = SmallGeometry(6, 24);
    const auto index = MakeIndex(g, method, 70);
    MadeUpQueries q(g, 2, 2 * 64 + 32, 70, 1, 1);
    const SelectOptions options;
    const HeadScorer scorer(*index, kLayer, q.block, options);
    for (const bool beside : {false, true}) {
      if (beside) q.Share(g, 0, 1, 1);
      const HeadScorer with(*index, kLayer, q.block, options);
      const auto shares = Shares(with, 1, 1, AllChunks(with));
      const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
      if (beside) {
        EXPECT_LT(sum, 0.999);
        EXPECT_GT(sum, 0.1);
      } else {
        EXPECT_NEAR(sum, 1, 1e-4);
      }
      const uint32_t skipped = 32 / with.unit_tokens();
      for (uint32_t i = 0; i < skipped; ++i) EXPECT_EQ(shares[i], 0.0f);
      EXPECT_GT(shares[skipped], 0.0f);
    }
  }
}

// Rows together, and chunks that do not follow each other, change no bit of a score.
TEST(HeadScorerTest, RowsAndChunksDoNotDependOnEachOther) {
  const KvGeometry g = SmallGeometry(2, 24);
  const auto index = MakeIndex(g, "sketch", 140);
  MadeUpQueries q(g, 4, 16, 135, 1, 1);
  q.Share(g, 0, 1, 1);
  const SelectOptions options;
  const HeadScorer scorer(*index, kLayer, q.block, options);
  ASSERT_EQ(scorer.rows_at_once(), kPooledAtOnce / 2);
  const std::vector<float> one = Shares(scorer, 2, 1, AllChunks(scorer));
  const std::vector<float> other = Shares(scorer, 3, 1, AllChunks(scorer));
  const auto together = Kept(scorer, 2, 2, 1, AllChunks(scorer), 1e-30f);
  EXPECT_EQ(together[0], one);
  EXPECT_EQ(together[1], other);

  const std::vector<uint32_t> some = {0, 1, 5, 62, 63, 64, 65, 99, 134};
  const auto shares = Shares(scorer, 2, 1, some);
  // Shares of fewer chunks are larger, all by nearly the same factor a query head: the order stays.
  for (size_t i = 0; i < some.size() * 64; ++i) {
    const float of_all = one[some[i / 64] * 64 + i % 64];
    EXPECT_EQ(of_all > 0, shares[i] > 0);
    EXPECT_GE(shares[i], of_all);
  }
}

// What is kept of all shares is what they are, bit for bit, and none too few, whatever the least.
TEST(HeadScorerTest, KeepsWhatReachesTheLeast) {
  WithEachInstructionSet([] {
    for (const Pooling pooling : {Pooling::kMeanSoftmax, Pooling::kMaxSoftmax, Pooling::kSumLogits}) {
      for (const uint32_t heads : {1u, 2u, 7u}) {
        KvGeometry g = SmallGeometry(heads, 24);
        if (heads == 2) g.chunk_tokens = 27, g.group_tokens = 9;  // that fill no vector
        const auto index = MakeIndex(g, "sketch", 70);
        MadeUpQueries q(g, 1, 16, 70, 1, 1);
        q.Share(g, 0, 1, 1);
        SelectOptions options;
        options.pooling = pooling;
        const HeadScorer scorer(*index, kLayer, q.block, options);
        const auto chunks = AllChunks(scorer);
        const std::vector<float> shares = Shares(scorer, 0, 1, chunks);
        std::vector<float> sorted = shares;
        std::sort(sorted.rbegin(), sorted.rend());
        for (const size_t rank : {size_t{0}, size_t{5}, size_t{300}, sorted.size() - 17}) {
          const float least = sorted[rank];
          ASSERT_GT(least, 0.0f);
          for (const float limit : {least, std::nextafter(least, 1.0f)}) {
            std::vector<float> expected = shares;
            for (float& share : expected) share = share >= limit ? share : 0.0f;
            EXPECT_EQ(Kept(scorer, 0, 1, 1, chunks, limit)[0], expected) << int(pooling) << " " << heads << " " << rank;
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace hga
