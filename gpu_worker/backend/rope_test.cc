#include "gpu_worker/backend/rope.h"

#include <cmath>

#include "gtest/gtest.h"

namespace hga {
namespace {

ModelConfig Config(RopeScaling::Kind kind) {
  ModelConfig c;
  c.rope_dims = c.head_dim = 128;
  c.rope_base = 500000;
  c.rope_scaling.kind = kind;
  c.rope_scaling.factor = 8;
  c.rope_scaling.original_context = 8192;
  return c;
}

TEST(RopeTest, LinearStretchesAllPairs) {
  const auto plain = RopeFrequencies(Config(RopeScaling::Kind::kNone));
  const auto stretched = RopeFrequencies(Config(RopeScaling::Kind::kLinear));
  EXPECT_EQ(plain[0], 1);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_DOUBLE_EQ(stretched[i], plain[i] / 8);
}

// Llama 3.1: what turns within 2048 tokens is kept, what takes more than 8192 is stretched.
TEST(RopeTest, Llama3KeepsFastPairsAndStretchesSlowOnes) {
  const auto plain = RopeFrequencies(Config(RopeScaling::Kind::kNone));
  const auto scaled = RopeFrequencies(Config(RopeScaling::Kind::kLlama3));
  int kept = 0, stretched = 0, between = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * M_PI / plain[i];
    if (wavelength < 2048) {
      EXPECT_DOUBLE_EQ(scaled[i], plain[i]);
      ++kept;
    } else if (wavelength > 8192) {
      EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 8);
      ++stretched;
    } else {
      EXPECT_LT(scaled[i], plain[i]);
      EXPECT_GT(scaled[i], plain[i] / 8);
      ++between;
    }
  }
  EXPECT_GT(kept, 20);
  EXPECT_GT(stretched, 20);
  EXPECT_GT(between, 2);
}

TEST(RopeTest, YarnRampsBetweenFastAndSlowPairsAndRaisesTheMagnitude) {
  ModelConfig c = Config(RopeScaling::Kind::kYarn);
  const auto plain = RopeFrequencies(Config(RopeScaling::Kind::kNone)), scaled = RopeFrequencies(c);
  EXPECT_DOUBLE_EQ(scaled.front(), plain.front());
  EXPECT_DOUBLE_EQ(scaled.back(), plain.back() / 8);
  double last = 1;
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_LE(scaled[i] / plain[i], last + 1e-12);
    last = scaled[i] / plain[i];
  }
  EXPECT_DOUBLE_EQ(RopeMagnitude(c), 0.1 * std::log(8.0) + 1);
  c.rope_scaling.attention_factor = 1.5;
  EXPECT_DOUBLE_EQ(RopeMagnitude(c), 1.5);
  float head[128] = {};
  head[0] = 1;
  Rope rope(c);
  rope.SetPosition(0);
  rope.Apply(head);
  EXPECT_FLOAT_EQ(head[0], 1.5f);
}

TEST(RopeTest, TheFilesOwnDivisorsAreUsed) {
  ModelConfig c = Config(RopeScaling::Kind::kNone);
  c.rope_scaling.divisors.assign(64, 1);
  c.rope_scaling.divisors[63] = 4;
  const auto plain = RopeFrequencies(Config(RopeScaling::Kind::kNone)), divided = RopeFrequencies(c);
  EXPECT_DOUBLE_EQ(divided[0], plain[0]);
  EXPECT_DOUBLE_EQ(divided[63], plain[63] / 4);
}

}  // namespace
}  // namespace hga
