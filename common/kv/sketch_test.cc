#include "common/kv/sketch.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace hga {
namespace {

struct Keys {
  Keys(uint32_t count, uint32_t head_dim, float spread) : rows(count) {
    std::mt19937 random(head_dim);
    std::normal_distribution<float> normal;
    std::vector<float> centre(head_dim);
    for (float& x : centre) x = 3 * normal(random);
    data.resize(size_t{count} * head_dim);
    for (uint32_t t = 0; t < count; ++t) {
      rows[t] = &data[size_t{t} * head_dim];
      for (uint32_t d = 0; d < head_dim; ++d) {
        data[size_t{t} * head_dim + d] = ToBf16(centre[d] + spread * normal(random));
      }
    }
  }
  std::vector<bf16> data;
  std::vector<const bf16*> rows;
};

double SquaredNorm(const std::vector<float>& x) {
  double sum = 0;
  for (float v : x) sum += double{v} * v;
  return sum;
}

TEST(SketchTest, RotationIsOrthogonalAtEveryHeadDim) {
  for (uint32_t head_dim = 8; head_dim <= 256; head_dim += 8) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> a(head_dim), b(head_dim);
    for (uint32_t d = 0; d < head_dim; ++d) {
      a[d] = normal(random);
      b[d] = normal(random);
    }
    double before = 0, after = 0;
    for (uint32_t d = 0; d < head_dim; ++d) before += double{a[d]} * b[d];
    const double norm = SquaredNorm(a);
    RotateForSketch(a.data(), head_dim);
    RotateForSketch(b.data(), head_dim);
    for (uint32_t d = 0; d < head_dim; ++d) after += double{a[d]} * b[d];
    EXPECT_NEAR(after, before, 1e-3) << head_dim;
    EXPECT_NEAR(SquaredNorm(a), norm, norm * 1e-4) << head_dim;
  }
}

// Of a Gaussian's energy one bit per channel keeps 2 / pi, whatever the rotation.
TEST(SketchTest, RecordsGiveBackCentreAndTheDirectionOfDifferences) {
  for (uint32_t head_dim : {8u, 64u, 96u, 128u, 256u}) {
    const Keys keys(64, head_dim, 1);
    std::vector<uint8_t> centre(SketchCentreBytes(head_dim)), tokens(SketchTokenBytes(head_dim));
    MakeSketch(keys.rows.data(), 64, head_dim, nullptr, centre.data(), tokens.data());
    std::vector<float> c(head_dim), sketch(head_dim), difference(head_dim);
    SketchCentre(centre.data(), head_dim, c.data());
    double error = 0, energy = 0;
    for (uint32_t t = 0; t < 64; ++t) {
      for (uint32_t d = 0; d < head_dim; ++d) difference[d] = ToFloat(keys.rows[t][d]) - c[d];
      energy += SquaredNorm(difference);
      RotateForSketch(difference.data(), head_dim);
      SketchToken(centre.data(), tokens.data(), t, head_dim, sketch.data());
      for (uint32_t d = 0; d < head_dim; ++d) {
        EXPECT_GE(sketch[d] * difference[d], 0);
        error += (sketch[d] - difference[d]) * (sketch[d] - difference[d]);
      }
    }
    EXPECT_LT(error / energy, 1 - 0.6366 + 0.05) << head_dim;
  }
}

TEST(SketchTest, EqualKeysAreTheirCentre) {
  const Keys keys(64, 64, 0);
  std::vector<uint8_t> centre(SketchCentreBytes(64)), tokens(SketchTokenBytes(64));
  MakeSketch(keys.rows.data(), 64, 64, nullptr, centre.data(), tokens.data());
  std::vector<float> c(64), sketch(64);
  SketchCentre(centre.data(), 64, c.data());
  SketchToken(centre.data(), tokens.data(), 63, 64, sketch.data());
  for (uint32_t d = 0; d < 64; ++d) {
    EXPECT_NEAR(c[d], ToFloat(keys.rows[0][d]), 0.05);
    EXPECT_NEAR(sketch[d], 0, 0.03);  // what the 8 bits of the centre leave
  }
}

TEST(SketchTest, ShortChunksAndKeysThatAreNotFinite) {
  Keys keys(5, 16, 1);
  keys.data[3] = ToBf16(std::numeric_limits<float>::infinity());
  keys.data[20] = ToBf16(std::nanf(""));
  std::vector<uint8_t> centre(SketchCentreBytes(16), 0xFF), tokens(SketchTokenBytes(16), 0xFF);
  MakeSketch(keys.rows.data(), 5, 16, nullptr, centre.data(), tokens.data());
  std::vector<float> sketch(16);
  for (uint32_t t : {0u, 1u, 4u, 5u, 63u}) {
    SketchToken(centre.data(), tokens.data(), t, 16, sketch.data());
    for (float x : sketch) EXPECT_TRUE(std::isfinite(x));
    if (t >= 5) {
      EXPECT_EQ(SquaredNorm(sketch), 0);
    }
  }
}

}  // namespace
}  // namespace hga
