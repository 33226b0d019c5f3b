#include "common/kv/kv_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "hwy/targets.h"

namespace hga {
namespace {

class KvDtypeTest : public ::testing::TestWithParam<KvDtype> {};

std::vector<bf16> RandomRow(size_t head_dim, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<bf16> row(head_dim);
  for (bf16& x : row) x = ToBf16(normal(random));
  return row;
}

bool Same(const std::vector<bf16>& a, const std::vector<bf16>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(bf16)) == 0;
}

TEST_P(KvDtypeTest, RoundedRowsPackWithoutLoss) {
  for (size_t head_dim : {8, 32, 64, 80, 128}) {
    for (uint32_t seed = 0; seed < 300; ++seed) {
      std::vector<bf16> row = RandomRow(head_dim, std::pow(10.0f, static_cast<float>(seed % 13) - 6), seed);
      if (seed % 3 == 0) row[seed % head_dim] = ToBf16(300);  // an outlier, as keys have them
      RoundKvRow(GetParam(), row.data(), head_dim);
      std::vector<bf16> twice = row;
      RoundKvRow(GetParam(), twice.data(), head_dim);
      EXPECT_TRUE(Same(twice, row));
      std::vector<uint8_t> packed(PackedRowBytes(head_dim));
      ASSERT_TRUE(PackKvRow(GetParam(), row.data(), head_dim, PackedRowAt(packed.data(), head_dim)));
      std::vector<bf16> unpacked(head_dim);
      UnpackKvRow(GetParam(), PackedRowViewAt(packed.data(), head_dim), head_dim, unpacked.data());
      EXPECT_TRUE(Same(unpacked, row));
    }
  }
}

TEST_P(KvDtypeTest, RoundsToTheNearest) {
  std::vector<bf16> row = RandomRow(64, 1, 3), rounded = row;
  RoundKvRow(GetParam(), rounded.data(), 64);
  for (size_t first = 0; first < 64; first += kScaledChannels) {
    float largest = 0;
    for (size_t i = first; i < first + kScaledChannels; ++i) largest = std::max(largest, std::fabs(ToFloat(row[i])));
    for (size_t i = first; i < first + kScaledChannels; ++i) {
      const float x = ToFloat(row[i]), error = std::fabs(x - ToFloat(rounded[i]));
      // int8: half a step, of which there are at least 64 up to the largest. e4m3: half of the last of 4 bits.
      EXPECT_LE(error, GetParam() == KvDtype::kInt8 ? largest / 127 : std::fabs(x) / 16 + largest / 100000);
    }
  }
}

TEST_P(KvDtypeTest, WhatWasNotRoundedIsNotPacked) {
  const std::vector<bf16> row = RandomRow(64, 1, 5);
  std::vector<uint8_t> packed(PackedRowBytes(64));
  EXPECT_FALSE(PackKvRow(GetParam(), row.data(), 64, PackedRowAt(packed.data(), 64)));
}

TEST_P(KvDtypeTest, OddValuesStayNumbers) {
  std::vector<bf16> row(32, ToBf16(0));
  row[0] = ToBf16(std::numeric_limits<float>::quiet_NaN());
  row[1] = ToBf16(std::numeric_limits<float>::infinity());
  row[2] = ToBf16(-0.0f);
  RoundKvRow(GetParam(), row.data(), 32);
  for (const bf16 x : row) EXPECT_TRUE(std::isfinite(ToFloat(x)));
  EXPECT_EQ(row[2].bits, 0);
  std::vector<uint8_t> packed(PackedRowBytes(32), 0xff);
  UnpackKvRow(GetParam(), PackedRowViewAt(packed.data(), 32), 32, row.data());
  for (const bf16 x : row) EXPECT_TRUE(std::isfinite(ToFloat(x)));
}

// With the kernels of each instruction set that this CPU has.
void OnEachTarget(const std::function<void(const std::string& target)>& work) {
  for (const auto target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    work(hwy::TargetName(target));
  }
  hwy::SetSupportedTargetsForTest(0);
}

// What the format says: a code's value, times two to the power of its scale.
float Meaning(KvDtype dtype, int code, int scale_byte) {
  const int scale = std::min(100, std::max(-100, scale_byte - 127));
  if (dtype == KvDtype::kInt8) return std::ldexp(static_cast<float>(static_cast<int8_t>(code)), scale);
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  if ((code & 127) == 127) return 0;  // no number
  const float magnitude =
      exponent == 0 ? std::ldexp(mantissa, scale - 9) : std::ldexp(8 + mantissa, exponent - 10 + scale);
  return code & 128 && magnitude > 0 ? -magnitude : magnitude;
}

TEST_P(KvDtypeTest, EveryCodeUnderEveryScale) {
  OnEachTarget([&](const std::string& target) {
    for (int scale = 0; scale < 256; ++scale) {
      std::vector<uint8_t> packed(PackedRowBytes(256), static_cast<uint8_t>(scale));
      for (int code = 0; code < 256; ++code) packed[8 + code] = static_cast<uint8_t>(code);
      std::vector<bf16> row(256);
      UnpackKvRow(GetParam(), PackedRowViewAt(packed.data(), 256), 256, row.data());
      for (int code = 0; code < 256; ++code) {
        ASSERT_EQ(row[code].bits, ToBf16(Meaning(GetParam(), code, scale)).bits)
            << "code " << code << " scale " << scale << " on " << target;
      }
    }
  });
}

TEST_P(KvDtypeTest, EveryInstructionSetMakesTheSameBits) {
  std::vector<std::vector<uint8_t>> expected;
  OnEachTarget([&](const std::string& target) {
    std::vector<std::vector<uint8_t>> made;
    for (size_t head_dim : {1, 8, 31, 32, 33, 64, 80, 128}) {
      for (uint32_t seed = 0; seed < 50; ++seed) {
        std::vector<bf16> row = RandomRow(head_dim, std::pow(10.0f, static_cast<float>(seed % 25) - 12), seed);
        std::vector<uint8_t> packed(PackedRowBytes(head_dim));
        packed.push_back(PackKvRow(GetParam(), row.data(), head_dim, PackedRowAt(packed.data(), head_dim)));
        RoundKvRow(GetParam(), row.data(), head_dim);
        packed.resize(packed.size() + head_dim * sizeof(bf16));
        std::memcpy(&packed[packed.size() - head_dim * sizeof(bf16)], row.data(), head_dim * sizeof(bf16));
        made.push_back(packed);
      }
    }
    if (expected.empty()) expected = made;
    EXPECT_EQ(made, expected) << target;
  });
}

INSTANTIATE_TEST_SUITE_P(Packed, KvDtypeTest, ::testing::Values(KvDtype::kFp8E4m3, KvDtype::kInt8),
                         [](const auto& info) { return std::string(KvDtypeName(info.param)); });

TEST(KvDtype, Bf16IsLeftAlone) {
  std::vector<bf16> row = RandomRow(64, 1, 9), before = row;
  RoundKvRow(KvDtype::kBf16, row.data(), 64);
  EXPECT_TRUE(Same(row, before));
}

TEST(KvDtype, Fp8KnowsItsValues) {
  std::vector<bf16> row(32, ToBf16(0));
  row[0] = ToBf16(448);
  row[1] = ToBf16(-0.5);
  row[2] = ToBf16(17);    // between 16 and 18: to even
  row[3] = ToBf16(19);    // between 18 and 20: to even
  row[4] = ToBf16(0.001f);  // half of the smallest is 2^-10
  RoundKvRow(KvDtype::kFp8E4m3, row.data(), 32);
  EXPECT_EQ(ToFloat(row[0]), 448);
  EXPECT_EQ(ToFloat(row[1]), -0.5);
  EXPECT_EQ(ToFloat(row[2]), 16);
  EXPECT_EQ(ToFloat(row[3]), 20);
  EXPECT_EQ(ToFloat(row[4]), std::ldexp(1.0f, -9));
}

TEST(KvRows, BlocksHoldRoundedRows) {
  for (KvDtype dtype : {KvDtype::kBf16, KvDtype::kInt8}) {
    for (uint32_t head_dim : {8u, 80u, 128u}) {
      KvGeometry g;
      g.layers = 1;
      g.kv_heads = g.query_heads = 2;
      g.head_dim = head_dim;
      g.dtype = dtype;
      std::vector<uint8_t> block(g.block_bytes());
      for (uint32_t i = 0; i < 2 * g.chunk_tokens; ++i) {
        const std::vector<bf16> k = RandomRow(head_dim, 1, i), v = RandomRow(head_dim, 9, 1000 + i);
        WriteKv(g, k.data(), v.data(), block.data(), i % 2, i / 2);
      }
      for (uint32_t i = 0; i < 2 * g.chunk_tokens; ++i) {
        std::vector<bf16> k = RandomRow(head_dim, 1, i), v = RandomRow(head_dim, 9, 1000 + i), read(head_dim);
        RoundKvRow(dtype, k.data(), head_dim);
        RoundKvRow(dtype, v.data(), head_dim);
        const KvPlace place = PlaceInBlock(g, block.data(), i % 2, i / 2);
        ReadKey(g, place, read.data());
        EXPECT_TRUE(Same(read, k));
        ReadValue(g, place, read.data());
        EXPECT_TRUE(Same(read, v));
      }
    }
  }
}

TEST(KvDtype, NamesParse) {
  EXPECT_EQ(*ParseKvDtype("int8"), KvDtype::kInt8);
  EXPECT_EQ(*ParseKvDtype("fp8_e4m3"), KvDtype::kFp8E4m3);
  EXPECT_EQ(*ParseKvDtype("bf16"), KvDtype::kBf16);
  EXPECT_FALSE(ParseKvDtype("fp16").ok());
}

}  // namespace
}  // namespace hga
