#include "absl/strings/match.h"
#include "router/index/select.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <memory>
#include <set>

#include "common/kv/route_fixture.h"
#include "gtest/gtest.h"
#include "router/index/index_fixture.h"

namespace hga {
namespace {

std::vector<HeadSelection> RunSelect(const SequenceIndex& index, uint32_t layer, const RouteBlock& block,
                                     const SelectOptions& options = {}) {
  SelectScratch scratch;
  std::vector<HeadSelection> heads(index.geometry().kv_heads);
  Select(index, layer, block, options, &scratch, heads.data());
  return heads;
}

// Keys that the token attends by the selection.
std::set<uint32_t> KeysSeen(const HeadSelection& head, uint32_t token = UINT32_MAX) {
  std::set<uint32_t> keys;
  for (const SelectedChunk& s : head) {
    for (uint32_t i = 0; i < 64 && s.first_token <= token; ++i) {
      if ((s.mask >> i & 1) == 0) continue;
      EXPECT_TRUE(keys.insert(s.chunk * 64 + i).second) << "selected twice";
    }
  }
  return keys;
}

size_t Difference(const HeadSelection& a, const HeadSelection& b) {
  const std::set<uint32_t> in_a = KeysSeen(a), in_b = KeysSeen(b);
  std::vector<uint32_t> apart;
  std::set_symmetric_difference(in_a.begin(), in_a.end(), in_b.begin(), in_b.end(), std::back_inserter(apart));
  return apart.size();
}

class SelectMethodTest : public testing::TestWithParam<std::string> {};

TEST_P(SelectMethodTest, FastEqualsPlainLoops) {
  size_t selected = 0, apart = 0;
  for (uint32_t queries_per_kv_head : {1, 3, 8}) {
    for (uint32_t head_dim : {8, 24}) {
      const KvGeometry g = SmallGeometry(queries_per_kv_head, head_dim);
      const auto index = MakeIndex(g, GetParam(), 131);  // three segments
      for (const auto& [tokens, first_key, upto, budget] :
           {std::array<uint32_t, 4>{1, 0, 131, 112}, {1, 4, 131, 112}, {1, 144, 65, 640}, {15, 63 * 64, 64, 16},
            {17, 64, 130, 256}, {3, 320, 5, 144}}) {
        MadeUpQueries q(g, tokens, first_key, upto, budget, head_dim + tokens);
        for (const int way : {0, 1, 2, 3}) {
          if (way == 1) q.Share(g, 0, 1, tokens);
          if (way == 2) q.Share(g, 0.0005f, 1, tokens);
          if (way == 3) q.Share(g, 0, 0.7f, tokens);
          // The reference is slow: the other ways with one depth of the first level each.
          for (const SelectOptions& options :
               {SelectOptions(), SelectOptions{4, 0}, SelectOptions{4, 0, Pooling::kMaxSoftmax}}) {
            if (way > 0 && (head_dim != 24 || (options.scan_chunks == 0) != (way == 2))) continue;
            const auto fast = RunSelect(*index, 1, q.block, options);
            const auto reference = SelectReference(*index, 1, q.block, options);
            for (uint32_t h = 0; h < g.kv_heads; ++h) {
              selected += KeysSeen(reference[h]).size();
              apart += Difference(fast[h], reference[h]);
            }
          }
        }
      }
    }
  }
  EXPECT_GT(selected, 10000u);
  // Float and double may order near-equal scores differently; sketches are read with tables of 8 bits.
  EXPECT_LE(apart, GetParam() == "sketch" || GetParam() == "dealt" ? selected / 25 : selected / 500);
}

TEST_P(SelectMethodTest, HelpersChangeNothing) {
  const KvGeometry g = SmallGeometry(3, 24);
  const auto index = MakeIndex(g, GetParam(), 131);
  Helpers helpers(3);
  SelectScratch scratch;
  std::vector<HeadSelection> heads(g.kv_heads);
  for (const uint32_t tokens : {1, 5}) {
    for (const bool share : {false, true}) {
      MadeUpQueries q(g, tokens, 144, 130, 640, tokens);
      if (share) q.Share(g, 0.0005f, 0.9f, tokens);
      for (const SelectOptions& options : {SelectOptions(), SelectOptions{4, 0}}) {
        Select(*index, 1, q.block, options, &scratch, heads.data(), nullptr, &helpers);
        EXPECT_EQ(heads, RunSelect(*index, 1, q.block, options));
      }
    }
  }
}

TEST_P(SelectMethodTest, BudgetHoldsAndKeysLieInTheRange) {
  const KvGeometry g = SmallGeometry(3, 24, 3);
  const auto index = MakeIndex(g, GetParam(), 90);
  for (const SelectOptions& options : {SelectOptions{1, 0}, SelectOptions{4, 0}, SelectOptions{64, 256}}) {
    const MadeUpQueries q(g, 1, 4 * 64 + 16, 80, 176, 5);
    for (const HeadSelection& head : RunSelect(*index, 1, q.block, options)) {
      const std::set<uint32_t> keys = KeysSeen(head);
      // Units of 32 do not fill the budget, and the first of them begins before the range.
      ASSERT_LE(keys.size(), 176u);
      ASSERT_GE(keys.size(), index->method().unit_tokens(g) <= 16 ? 176u : 144u);
      EXPECT_GE(*keys.begin(), 4u * 64 + 16);
      EXPECT_LT(*keys.rbegin(), 80u * 64);
    }
  }
}

TEST_P(SelectMethodTest, LaterTokensChangeNothingForEarlierOnes) {
  const KvGeometry g = SmallGeometry();
  const auto index = MakeIndex(g, GetParam(), 120);
  MadeUpQueries q(g, 16, 0, 120, 144, 1);
  for (uint32_t t = 0; t < 16; ++t) q.budgets[t] = 144 + 16 * t;
  const uint32_t unit_tokens = index->method().unit_tokens(g);
  const auto before = RunSelect(*index, 0, q.block);
  // Other queries and another budget from token 10 on.
  const auto other = RandomBf16(q.queries.size(), 99);
  std::copy(other.begin() + 10 * g.query_heads * g.head_dim, other.end(),
            q.queries.begin() + 10 * g.query_heads * g.head_dim);
  q.budgets[12] = 120 * 64;
  const auto after = RunSelect(*index, 0, q.block);
  for (uint32_t h = 0; h < g.kv_heads; ++h) {
    for (uint32_t t = 0; t < 10; ++t) {
      EXPECT_EQ(KeysSeen(before[h], t), KeysSeen(after[h], t));
      // The union, not each token's own.
      EXPECT_EQ(KeysSeen(before[h], t).size(), q.budgets[t] / unit_tokens * unit_tokens);
    }
    EXPECT_NE(before[h], after[h]);
  }
  // And one token alone selects what it selects in a block.
  RouteBlock alone = q.block;
  alone.tokens = 1;
  EXPECT_EQ(KeysSeen(RunSelect(*index, 0, alone)[0]), KeysSeen(before[0], 0));
}

// The head whose attention lies in the range gets the keys; one whose attention lies elsewhere gets few.
TEST_P(SelectMethodTest, KvHeadsShareTheBudgetByWhatTheyMiss) {
  const KvGeometry g = SmallGeometry(2, 24, 3);
  const auto index = MakeIndex(g, GetParam(), 90);
  MadeUpQueries q(g, 1, 64, 80, 176, 5);
  q.Share(g, 0, 1, 1);
  q.attended = {50, 50, 0, 0, -10, -10};
  const uint32_t unit_tokens = index->method().unit_tokens(g);
  const auto heads = RunSelect(*index, 1, q.block);
  EXPECT_EQ(KeysSeen(heads[0]).size(), 0u);
  EXPECT_GT(KeysSeen(heads[2]).size(), 0u);
  EXPECT_EQ(KeysSeen(heads[1]).size() + KeysSeen(heads[2]).size(), 3u * 176 / unit_tokens * unit_tokens);
}

// Selection ends early where the attention is found: the least share and top-p, each alone.
TEST_P(SelectMethodTest, WhatIsNotWorthReadingIsNotSelected) {
  const KvGeometry g = SmallGeometry(2, 24, 2);
  const auto index = MakeIndex(g, GetParam(), 90);
  MadeUpQueries q(g, 1, 64, 80, 2000, 5);
  // Queries that some keys stand out for, whatever the summaries average away. What a sketch leaves out grows with
  // their square: not so large that all others' shares are 0.
  const float size = index->method().form == SummaryForm::kSketch ? 12 : 24;
  for (bf16& x : q.queries) x = ToBf16(size * ToFloat(x));
  const auto keys = [&](float least_share, float top_p) {
    q.Share(g, least_share, top_p, 1);
    const auto heads = RunSelect(*index, 1, q.block);
    return KeysSeen(heads[0]).size() + KeysSeen(heads[1]).size();
  };
  EXPECT_EQ(keys(0, 1), 4000u);
  EXPECT_LT(keys(0.001f, 1), 1000u);
  EXPECT_GE(keys(0.0001f, 1), keys(0.001f, 1));
  EXPECT_EQ(keys(1, 1), 0u);
  EXPECT_LT(keys(0, 0.5f), keys(0, 0.9f));
  EXPECT_LT(keys(0, 0.9f), 4000u);
}

// Keys of the range that the token does not attend, each e^ the coarse score of its chunk.
double Missed(const SequenceIndex& index, uint32_t layer, const RouteBlock& block, uint32_t token, uint32_t query_head,
              const HeadSelection& selection) {
  const KvGeometry& g = index.geometry();
  const std::set<uint32_t> seen = KeysSeen(selection, token);
  std::vector<float> query(g.head_dim);
  for (uint32_t d = 0; d < g.head_dim; ++d) {
    const bf16 x = block.queries[(size_t{token} * g.query_heads + query_head) * g.head_dim + d];
    query[d] = ToFloat(x) / std::sqrt(static_cast<float>(g.head_dim));
  }
  double sum = 0;
  for (uint32_t key = block.first_key; key < block.route_upto * g.chunk_tokens; ++key) {
    if (seen.count(key) != 0) continue;
    const SummaryMethod& m = index.method();
    const uint8_t* part = index.Coarse(layer, query_head / g.queries_per_kv_head(), key / g.chunk_tokens);
    sum += std::exp(ScoreUnit(m.form, m.coarse_layout(g), query.data(), part));
  }
  return std::log(sum);
}

TEST_P(SelectMethodTest, SaysWhatIsMissed) {
  const KvGeometry g = SmallGeometry(3, 24, 2);
  const auto index = MakeIndex(g, GetParam(), 90);
  for (const bool shared : {false, true}) {
    MadeUpQueries q(g, 5, 3 * 64 + 16, 80, 96, 5);
    if (shared) q.Share(g, 0, 1, 1);
    q.block.residual = true;
    for (uint32_t t = 2; t < 5; ++t) q.budgets[t] = 160;  // the others have nothing to add
    q.budgets[4] = kEverything;
    std::vector<HeadSelection> heads(g.kv_heads);
    std::vector<float> missed(5 * g.query_heads);
    SelectScratch scratch;
    Select(*index, 1, q.block, {}, &scratch, heads.data(), missed.data());
    for (uint32_t h = 0; h < g.query_heads; ++h) {
      EXPECT_EQ(missed[4 * g.query_heads + h], -std::numeric_limits<float>::infinity());
      for (uint32_t t = 0; t < 4; ++t) {
        const float sum = missed[t * g.query_heads + h];
        if (!EstimatesMass(index->method().form)) {
          EXPECT_EQ(sum, -std::numeric_limits<float>::infinity());
        } else {
          EXPECT_NEAR(sum, Missed(*index, 1, q.block, t, h, heads[h / 3]), 0.04) << t << " " << h;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, SelectMethodTest,
                         testing::Values("mean", "cuboid", "sketch", "dealt", "box8", "gauss32-int8", "kmeans",
                                         "cuboid16-int8"));

TEST(SelectTest, EqualScoresTakeTheLowerPosition) {
  const KvGeometry g = SmallGeometry();
  const SummaryMethod* m = *FindSummaryMethod("mean");
  SequenceIndex index(g, m);
  const auto hashes = MadeUpChunks(100);
  std::string data(m->chunk_bytes(g), '\0');
  for (uint32_t i = 0; i < 100; ++i) ASSERT_TRUE(index.Append(i, hashes[i], data).ok());
  const MadeUpQueries q(g, 1, 3 * 64, 100, 96, 1);
  const HeadSelection expected = {{3, 0, ~uint64_t{0}}, {4, 0, 0xFFFFFFFF}};
  for (const HeadSelection& head : RunSelect(index, 0, q.block)) EXPECT_EQ(head, expected);
}

TEST(SelectTest, FullBudgetIsEverythingAndNoBudgetNothing) {
  const KvGeometry g = SmallGeometry();
  const auto index = MakeIndex(g, "sketch", 10);
  MadeUpQueries q(g, 3, 2 * 64 + 48, 9, 0, 1);
  for (const HeadSelection& head : RunSelect(*index, 0, q.block)) EXPECT_TRUE(head.empty());
  q.budgets = {0, 7 * 64 - 48, 1};
  q.block.budget_keys = q.budgets.data();
  HeadSelection all;
  SelectAll(g, q.block, &all);
  for (SelectedChunk& s : all) s.first_token = 1;
  for (const HeadSelection& head : RunSelect(*index, 0, q.block)) EXPECT_EQ(head, all);
}

TEST(SelectTest, QueriesThatAreNotFiniteStayWithinTheBudget) {
  const KvGeometry g = SmallGeometry();
  for (const char* method : {"mean", "cuboid", "sketch", "gauss8", "kmeans-int8"}) {
    const auto index = MakeIndex(g, method, 50);
    for (float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3e38f}) {
      for (const SelectOptions& options : {SelectOptions(), SelectOptions{1, 0}}) {
        MadeUpQueries q(g, 1, 0, 50, 80, 1);
        if (value > 0) q.Share(g, 0.001f, 0.9f, 1);
        for (float& x : q.attended) x = value;
        std::fill(q.queries.begin(), q.queries.end(), ToBf16(value));
        const auto heads = RunSelect(*index, 0, q.block, options);
        EXPECT_LE(KeysSeen(heads[0]).size() + KeysSeen(heads[1]).size(), 160u);
      }
    }
  }
}

// Where what is missed is asked for, each token of a block is selected by itself.
TEST(SelectTest, TokensThatAreSelectedTogetherGetWhatEachGetsAlone) {
  for (const uint32_t queries_per_kv_head : {1, 2, 3, 8}) {
    const KvGeometry g = SmallGeometry(queries_per_kv_head, 24, 3);
    const auto index = MakeIndex(g, "sketch", 131);
    for (const float least_share : {0.0f, 0.0005f}) {
      MadeUpQueries q(g, 37, 144, 130, 0, queries_per_kv_head);
      q.Share(g, least_share, 1, 7);
      const size_t of_token = q.queries.size() / 37;
      for (uint32_t t = 0; t < 37; ++t) {
        q.budgets[t] = t == 20 ? 16 : 300 + 5 * t;
        // Some tokens have far larger shares to give than those before them, some far smaller ones.
        for (size_t i = t * of_token; i < (t + 1) * of_token; ++i) {
          q.queries[i] = ToBf16(ToFloat(q.queries[i]) * static_cast<float>(t % 5));
        }
        if (t == 30) q.budgets[t] = kEverything;
      }
      for (const SelectOptions& options :
           {SelectOptions(), SelectOptions{1, 0}, SelectOptions{4, 0, Pooling::kSumLogits}}) {
        const auto together = RunSelect(*index, 1, q.block, options);
        RouteBlock block = q.block;
        block.residual = true;
        SelectScratch scratch;
        std::vector<HeadSelection> alone(g.kv_heads);
        std::vector<float> missed(37 * size_t{g.query_heads});
        Select(*index, 1, block, options, &scratch, alone.data(), missed.data());
        EXPECT_EQ(together, alone);
        EXPECT_GT(KeysSeen(together[0], 29).size(), KeysSeen(together[0], 1).size());
      }
    }
  }
}

struct KeyShare {
  uint32_t kv_head, key;
  float share;
};

// The shares of all keys that one token may select, as the scorer has them; the best first, equal ones by KV head and
// position.
std::vector<KeyShare> SharesOf(const SequenceIndex& index, const RouteBlock& block) {
  const KvGeometry& g = index.geometry();
  const SelectOptions options;
  const HeadScorer scorer(index, 1, block, options);
  std::vector<KeyShare> all;
  HeadScratch s;
  for (uint32_t h = 0; h < g.kv_heads; ++h) {
    std::vector<uint32_t> chunks;
    scorer.Load(0, 1, h, nullptr, &s);
    scorer.ChooseChunks(scorer.kept_chunks(block.budget_keys[0]), false, &s, &chunks);
    const size_t row = scorer.fine_stride(chunks.size());
    std::vector<float> shares(row);
    scorer.ScoreFine(chunks, &s, shares.data());
    for (size_t i = 0; i < chunks.size() * 64; ++i) {
      const uint32_t key = (scorer.first_chunk() + chunks[i / 64]) * 64 + i % 64;
      if (key >= block.first_key && shares[i] > 0) all.push_back({h, key, shares[i]});
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const KeyShare& a, const KeyShare& b) { return a.share > b.share; });
  return all;
}

// (KV head, key)
using KeysOfHeads = std::set<std::pair<uint32_t, uint32_t>>;

KeysOfHeads AllKeysSeen(const std::vector<HeadSelection>& heads) {
  KeysOfHeads keys;
  for (uint32_t h = 0; h < heads.size(); ++h) {
    for (const uint32_t key : KeysSeen(heads[h])) keys.insert({h, key});
  }
  return keys;
}

// From the scorer's shares on bit for bit what sorting them gives: ties at the cut (chunks repeat), a range that begins
// inside a chunk, keys of exactly the least share, nothing above it, everything above it, several threads, a scratch
// that remembers where another selection was cut.
TEST(SelectTest, EqualsSortingTheShares) {
  const KvGeometry g = SmallGeometry(2, 24, 3);
  const SummaryMethod* m = *FindSummaryMethod("sketch");
  SequenceIndex index(g, m);
  const auto hashes = MadeUpChunks(300);
  for (uint32_t i = 0; i < 300; ++i) ASSERT_TRUE(index.Append(i, hashes[i], SummaryData(g, *m, i % 40)).ok());
  Helpers helpers(3);
  SelectScratch scratch;
  std::vector<HeadSelection> heads(g.kv_heads);
  size_t at_the_least = 0, ties_cut = 0;
  for (const auto& [first_key, upto] : {std::pair{144u, 290u}, {144u, 100u}, {16u, 4u}}) {
    for (const uint32_t budget : {3u, 100u, 1500u, 40000u}) {
      MadeUpQueries q(g, 1, first_key, upto, budget, budget + upto);
      q.Share(g, 0, 1, 1);
      const std::vector<KeyShare> all = SharesOf(index, q.block);
      const size_t wanted = std::min<size_t>(3 * std::min(budget, q.block.keys(g)), all.size());
      const float at_cut = all[wanted - 1].share;
      for (const float least :
           {1e-30f, all.back().share, at_cut, std::nextafter(at_cut, 1.0f), all[wanted / 2].share, 1.0f}) {
        q.block.least_share = least;
        KeysOfHeads right;
        for (size_t i = 0; i < wanted && all[i].share >= least; ++i) right.insert({all[i].kv_head, all[i].key});
        at_the_least += !right.empty() && all[right.size() - 1].share == least;
        ties_cut += right.size() == wanted && wanted < all.size() && all[wanted].share == at_cut;
        for (Helpers* threads : {static_cast<Helpers*>(nullptr), &helpers}) {
          Select(index, 1, q.block, {}, &scratch, heads.data(), nullptr, threads);
          EXPECT_EQ(AllKeysSeen(heads), right) << first_key << " " << upto << " " << budget << " " << least;
        }
      }
    }
  }
  EXPECT_GT(at_the_least, 20u);
  EXPECT_GT(ties_cut, 5u);
}

// All that the sample sees is what stands out, so that the guess lets too few through.
TEST(SelectTest, AGuessThatIsFarTooHighChangesNothing) {
  const KvGeometry g = SmallGeometry(1, 64, 1);
  const SummaryMethod* m = *FindSummaryMethod("sketch");
  SequenceIndex index(g, m);
  const auto hashes = MadeUpChunks(300);
  MadeUpQueries q(g, 1, 0, 256, 3000, 3);
  for (uint32_t i = 0; i < 256; ++i) {
    std::string data(m->chunk_bytes(g), '\0');
    for (uint32_t layer = 0; layer < g.layers; ++layer) {
      std::vector<bf16> block = RandomBf16(g.block_elements(), 500 + i);
      // One of sixteen, as GuessCut steps: 16 n + n % 16.
      for (uint32_t n = 4 * i; n < 4 * i + 4; ++n) {
        std::copy_n(q.queries.begin(), 64, block.begin() + g.k_row(0, (16 * n + n % 16) % 64));
      }
      SummarizeBlock(g, *m, layer, block.data(), reinterpret_cast<uint8_t*>(&data[layer * m->layer_bytes(g)]));
    }
    ASSERT_TRUE(index.Append(i, hashes[i], data).ok());
  }
  q.Share(g, 0, 1, 1);
  const std::vector<KeyShare> all = SharesOf(index, q.block);
  KeysOfHeads right;
  for (size_t i = 0; i < 3000; ++i) right.insert({0, all[i].key});
  std::vector<int32_t> work;
  std::vector<float> shares(256 * 64);
  for (const KeyShare& key : all) shares[key.key] = key.share;
  ASSERT_GT(GuessCut(shares.data(), 256 * 64, 3000, &work), all[2999].share);
  EXPECT_EQ(AllKeysSeen(RunSelect(index, 1, q.block)), right);
}

// A key that a query is made for is found among 8K others, however the coarse level is bounded.
TEST(SelectTest, SketchFindsTheKeyThatStandsOut) {
  const KvGeometry g = SmallGeometry(2, 64, 1);
  const SummaryMethod* m = *FindSummaryMethod("sketch");
  SequenceIndex index(g, m);
  const auto hashes = MadeUpChunks(128);
  const uint32_t needle = 77 * 64 + 33;
  MadeUpQueries q(g, 1, 0, 128, 64, 3);
  std::copy_n(q.queries.begin(), 64, q.queries.begin() + 64);
  for (uint32_t i = 0; i < 128; ++i) {
    std::string data(m->chunk_bytes(g), '\0');
    for (uint32_t layer = 0; layer < g.layers; ++layer) {
      std::vector<bf16> block = RandomBf16(g.block_elements(), 500 + i);
      if (i == needle / 64) std::copy_n(q.queries.begin(), 64, block.begin() + g.k_row(0, needle % 64));
      SummarizeBlock(g, *m, layer, block.data(), reinterpret_cast<uint8_t*>(&data[layer * m->layer_bytes(g)]));
    }
    ASSERT_TRUE(index.Append(i, hashes[i], data).ok());
  }
  EXPECT_EQ(KeysSeen(RunSelect(index, 0, q.block)[0]).count(needle), 1u);
}

// A session of a million tokens, at 4% of the size of its K/V; its one key that stands out is found.
TEST(SequenceIndexTest, AMillionTokens) {
  const KvGeometry g = SmallGeometry(2, 64, 1);
  const SummaryMethod* m = *FindSummaryMethod("sketch");
  constexpr uint32_t kChunks = 16384, kNeedle = 12345 * 64 + 7;
  SequenceIndex index(g, m);
  const auto hashes = MadeUpChunks(kChunks);
  MadeUpQueries q(g, 1, 16, kChunks, 512, 3);
  std::copy_n(q.queries.begin(), 64, q.queries.begin() + 64);
  std::vector<std::string> data;
  for (uint32_t i = 0; i < 16; ++i) data.push_back(SummaryData(g, *m, i));
  // The needle's chunk is about the needle: the coarse level can know no more than a chunk's centre.
  std::vector<bf16> block(g.block_elements());
  for (uint32_t t = 0; t < 64; ++t) {
    for (uint32_t d = 0; d < 64; ++d) {
      block[g.k_row(0, t) + d] = ToBf16(ToFloat(q.queries[d]) * (t == kNeedle % 64 ? 2.0f : 0.5f));
    }
  }
  std::string needle(m->chunk_bytes(g), '\0');
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    SummarizeBlock(g, *m, layer, block.data(), reinterpret_cast<uint8_t*>(&needle[layer * m->layer_bytes(g)]));
  }
  for (uint32_t i = 0; i < kChunks; ++i) {
    ASSERT_TRUE(index.Append(i, hashes[i], i == kNeedle / 64 ? needle : data[i % 16]).ok());
  }
  EXPECT_LT(static_cast<double>(index.bytes()), 0.04 * g.bytes_per_token() * kChunks * 64);
  const std::set<uint32_t> keys = KeysSeen(RunSelect(index, 1, q.block)[0]);
  EXPECT_EQ(keys.count(kNeedle), 1u);
  EXPECT_LE(keys.size(), 512u);
}

TEST(SequenceIndexTest, GapsAndOtherChunksAreRefusedAndRepeatsAreNot) {
  const KvGeometry g = SmallGeometry();
  const SummaryMethod* m = *FindSummaryMethod("mean");
  SequenceIndex index(g, m);
  const auto hashes = MadeUpChunks(3);
  const std::string data = SummaryData(g, *m, 1);
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
