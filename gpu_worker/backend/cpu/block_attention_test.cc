#include "gpu_worker/backend/cpu/block_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gpu_worker/backend/cpu/random_floats_test.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kPad = 64;

// Queries that attend tiles of some keys, each key seen from some query on.
struct Attention {
  Attention(uint32_t count, uint32_t head_dim) : count(count), head_dim(head_dim) {
    queries = Random(size_t{count} * kPad, 1);
    m.assign(count, -std::numeric_limits<float>::infinity());
    l.assign(count, 0);
    o.assign(size_t{count} * kPad, 0);
    PackQueries(queries.data(), count, head_dim, kPad, &packed);
  }

  void Attend(uint32_t keys, const std::vector<uint32_t>& first, uint32_t seed) {
    const std::vector<float> k = Random(size_t{keys} * head_dim, seed), v = Random(size_t{keys} * kPad, seed + 1);
    std::vector<float> weights;
    AttendBlock({count, packed.data(), m.data(), l.data(), o.data(), head_dim, kPad},
                {keys, k.data(), v.data(), first.data()}, &weights);
    for (uint32_t j = 0; j < keys; ++j) {
      all_k.insert(all_k.end(), k.begin() + j * head_dim, k.begin() + (j + 1) * head_dim);
      all_v.insert(all_v.end(), v.begin() + j * kPad, v.begin() + (j + 1) * kPad);
      all_first.push_back(first[j]);
    }
  }

  void ExpectAsPlainLoopsDo() const {
    for (uint32_t q = 0; q < count; ++q) {
      std::vector<double> expected(head_dim);
      double sum = 0, top = -1e30;
      std::vector<double> scores(all_first.size());
      for (size_t j = 0; j < scores.size(); ++j) {
        for (uint32_t d = 0; d < head_dim; ++d) scores[j] += double{queries[q * kPad + d]} * all_k[j * head_dim + d];
        if (all_first[j] <= q) top = std::max(top, scores[j]);
      }
      for (size_t j = 0; j < scores.size(); ++j) {
        if (all_first[j] > q) continue;
        const double weight = std::exp(scores[j] - top);
        sum += weight;
        for (uint32_t d = 0; d < head_dim; ++d) expected[d] += weight * all_v[j * kPad + d];
      }
      ASSERT_NEAR(l[q], sum, 1e-4 * sum) << q;
      if (sum > 0) {
        ASSERT_NEAR(m[q], top, 1e-4) << q;
      }
      for (uint32_t d = 0; d < head_dim; ++d) ASSERT_NEAR(o[q * kPad + d], expected[d], 1e-3 * sum) << q << " " << d;
    }
  }

  uint32_t count, head_dim;
  std::vector<float> queries, packed, m, l, o, all_k, all_v;
  std::vector<uint32_t> all_first;
};

TEST(BlockAttentionTest, AsPlainLoopsOnOddSizes) {
  for (const uint32_t head_dim : {8u, 24u, 64u}) {
    for (const uint32_t count : {1u, 5u, 16u, 33u, 70u}) {
      Attention attention(count, head_dim);
      std::mt19937 random(count);
      for (const uint32_t keys : {1u, 7u, 63u, 64u}) {
        std::vector<uint32_t> first(keys);
        for (uint32_t& f : first) f = random() % 2 == 0 ? 0 : random() % (count + 3);  // some are seen by nobody
        attention.Attend(keys, first, keys);
        attention.ExpectAsPlainLoopsDo();
      }
    }
  }
}

// Nothing before the first query that sees a key is touched, and what has seen nothing stays empty.
TEST(BlockAttentionTest, KeysThatNobodySeesChangeNothing) {
  Attention attention(40, 24);
  attention.Attend(20, std::vector<uint32_t>(20, 30), 3);
  EXPECT_EQ(attention.l[29], 0);
  EXPECT_TRUE(std::isinf(attention.m[29]));
  EXPECT_GT(attention.l[30], 0);
  const auto m = attention.m, l = attention.l, o = attention.o;
  attention.Attend(20, std::vector<uint32_t>(20, 40), 5);
  EXPECT_EQ(attention.m, m);
  EXPECT_EQ(attention.l, l);
  EXPECT_EQ(attention.o, o);
}

// A query's bits do not depend on keys that only later ones see, nor on how many queries there are. The keys that both
// have are the beginning of the same random numbers.
TEST(BlockAttentionTest, SameBitsWhateverLaterQueriesSee) {
  Attention more(50, 24), fewer(21, 24);
  std::vector<uint32_t> first(30, 0);
  std::fill(first.begin() + 20, first.end(), 21);
  more.Attend(30, first, 3);
  fewer.Attend(20, std::vector<uint32_t>(20, 0), 3);
  for (uint32_t q = 0; q < 21; ++q) {
    EXPECT_EQ(more.m[q], fewer.m[q]);
    EXPECT_EQ(more.l[q], fewer.l[q]);
    for (uint32_t d = 0; d < 24; ++d) EXPECT_EQ(more.o[q * kPad + d], fewer.o[q * kPad + d]);
  }
}

}  // namespace
}  // namespace hga
