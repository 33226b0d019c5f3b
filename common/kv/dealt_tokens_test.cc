#include "common/kv/dealt_tokens.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "common/kv/route_fixture.h"
#include "common/kv/sketch.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

// A token's codes and its a, one channel after the other, in doubles.
struct Codes {
  std::vector<int> levels;
  double a = 0;
};
Codes Encode(const SketchDeal& deal, const std::vector<float>& y) {
  double length = 0;
  int coded = 0;
  for (size_t c = 0; c < y.size(); ++c) {
    if (deal.count[c] == 0) continue;
    length += double{y[c]} * y[c] / (double{deal.std_of[c]} * deal.std_of[c]);
    ++coded;
  }
  const double scale = std::sqrt(length / std::max(coded, 1));
  Codes codes;
  double product = 0, square = 0;
  for (size_t c = 0; c < y.size(); ++c) {
    codes.levels.push_back(0);
    if (deal.count[c] == 0) continue;
    const double half = 1 << (deal.count[c] - 1), step = scale * deal.step[c];
    const double at = step > 0 ? std::clamp(std::floor(y[c] / step), -half, half - 1) : 0.0;
    codes.levels.back() = static_cast<int>(at + half);
    const double read = (at + 0.5) * deal.step[c];
    product += y[c] * read;
    square += read * read;
  }
  codes.a = std::max(product / square, 0.0);
  return codes;
}

// Whether a token's bit is set in a record (sketch.h).
bool BitOf(const uint8_t* signs, uint32_t token, uint32_t bit) {
  const uint8_t byte = signs[bit / 4 * 32 + 2 * (token % 16) + token % 32 / 16];
  return (byte >> (bit % 4 + (token >= 32 ? 4 : 0)) & 1) != 0;
}

void CheckRecord(uint32_t head_dim, uint32_t count) {
  std::mt19937 random(head_dim + count);
  std::normal_distribution<float> normal;
  std::vector<ChannelEnergy> energies(head_dim);
  for (ChannelEnergy& e : energies) {
    e = {static_cast<uint8_t>(110 + random() % 30), static_cast<uint8_t>(110 + random() % 30)};
  }
  const SketchDeal deal = DealBits(energies);
  std::vector<bf16> keys(size_t{count} * head_dim);
  for (size_t i = 0; i < keys.size(); ++i) {
    keys[i] = ToBf16(2 + normal(random) * std::exp2((energies[i % head_dim].key - 128) / 8.0f));
  }
  std::copy_n(keys.begin(), head_dim, keys.begin() + (count - 1) * head_dim);  // two that are alike
  std::vector<const bf16*> rows;
  for (uint32_t t = 0; t < count; ++t) rows.push_back(&keys[size_t{t} * head_dim]);
  std::vector<uint8_t> centre(SketchCentreBytes(head_dim)), record(SketchTokenBytes(head_dim), 0xFF);
  MakeSketch(rows.data(), count, head_dim, &deal, centre.data(), record.data());

  std::vector<float> mean(head_dim);
  SketchCentre(centre.data(), head_dim, mean.data());
  std::vector<Codes> expected;
  double top = 0;
  for (uint32_t t = 0; t < count; ++t) {
    std::vector<float> y(head_dim);
    for (uint32_t d = 0; d < head_dim; ++d) y[d] = ToFloat(rows[t][d]) - mean[d];
    expected.push_back(Encode(deal, y));
    top = std::max(top, expected.back().a);
  }
  for (uint32_t t = 0; t < kSketchTokens; ++t) {
    for (uint32_t i = 0; i < head_dim; ++i) {
      const bool bit = t < count && (expected[t].levels[deal.bits[i].channel] >> deal.bits[i].level & 1) != 0;
      ASSERT_EQ(BitOf(record.data() + kSketchTokens, t, i), bit) << head_dim << " " << t << " " << i;
    }
    ASSERT_NEAR(record[t], t < count ? expected[t].a / top * 255 : 0, 0.5001) << t;
  }
}

TEST(DealtTokensTest, AreThoseOfOneTokenAndChannelAfterTheOther) {
  WithEachInstructionSet([] {
    for (const uint32_t head_dim : {8u, 24u, 64u, 80u, 128u, 256u}) {
      for (const uint32_t count : {64u, 33u, 5u}) CheckRecord(head_dim, count);
    }
  });
}

}  // namespace
}  // namespace hga
