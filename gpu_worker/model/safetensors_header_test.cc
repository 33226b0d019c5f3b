#include "gpu_worker/model/safetensors_header.h"

#include <random>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

// Eight bytes at `begin`.
std::string Entry(const std::string& name, int begin = 0) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[", begin, ",", begin + 8,
                      "]}");
}

absl::Status Parse(const std::string& text, uint64_t data_bytes, uint64_t data_start = 8) {
  return ParseSafetensorsHeader(text, data_start, data_bytes).status();
}

void ExpectRefused(const std::string& text, uint64_t data_bytes, const std::string& what) {
  const absl::Status status = Parse(text, data_bytes);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  EXPECT_TRUE(absl::StrContains(status.message(), what)) << text << "\n" << status;
}

TEST(SafetensorsHeaderTest, TensorsComeSortedByPlace) {
  const auto tensors = ParseSafetensorsHeader(
      "{\"__metadata__\":{\"format\":\"pt\"}," + Entry("b", 8) + "," + Entry("a") +
          ",\"scalar\":{\"data_offsets\":[16,18],\"shape\":[],\"dtype\":\"BF16\"}}   ",
      8, 18);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[1].name, "b");
  EXPECT_EQ((*tensors)[1].begin, 8u);
  EXPECT_EQ((*tensors)[1].shape, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ((*tensors)[2].dtype, "BF16");
  EXPECT_TRUE((*tensors)[2].shape.empty());
  EXPECT_TRUE(Parse("{}", 0).ok());
}

TEST(SafetensorsHeaderTest, RefusesWrongPlaces) {
  ExpectRefused("{" + Entry("a") + "," + Entry("b", 4) + "}", 12, "tensor 'a' and tensor 'b' overlap");
  ExpectRefused("{" + Entry("a") + "," + Entry("b", 12) + "}", 20, "nothing lies between 8 and 12, where tensor 'b'");
  ExpectRefused("{" + Entry("a") + "," + Entry("b", 8) + "}", 12, "tensor 'b' ends at 16 of 12 bytes");
  ExpectRefused("{" + Entry("a") + "}", 12, "the tensors end at 8 of 12 bytes");
  ExpectRefused("{" + Entry("a") + "," + Entry("a", 8) + "}", 16, "tensor 'a' stands there twice");
  EXPECT_TRUE(absl::StrContains(Parse("{" + Entry("a") + "}", 8, 10).message(), "tensor 'a' at 10 is not aligned"));
}

TEST(SafetensorsHeaderTest, RefusesWrongShapes) {
  const auto tensor = [](const std::string& shape, const std::string& offsets) {
    return absl::StrCat("{\"a\":{\"dtype\":\"F32\",\"shape\":", shape, ",\"data_offsets\":", offsets, "}}");
  };
  ExpectRefused(tensor("[3]", "[0,8]"), 8, "lies at 0 to 8, but its shape asks for 12 bytes");
  ExpectRefused(tensor("[2]", "[8,0]"), 8, "lies at 8 to 0");
  ExpectRefused(tensor("[4611686018427387904,4]", "[0,8]"), 8, "product overflows");
  ExpectRefused(tensor("[18446744073709551616]", "[0,8]"), 8, "not whole");  // 2^64
  ExpectRefused(tensor("[-2]", "[0,8]"), 8, "negative number in 'shape'");
  ExpectRefused(tensor("[1.5]", "[0,8]"), 8, "not whole in 'shape'");
  ExpectRefused(tensor("[[2]]", "[0,8]"), 8, "an array in 'shape'");
  ExpectRefused(tensor("[1,1,1,1,1,1,1,1,2]", "[0,8]"), 8, "more than 8 dimensions");
  ExpectRefused(tensor("[2]", "[0]"), 8, "has 1 data_offsets");
  ExpectRefused(tensor("[2]", "[0,8,9]"), 8, "has 3 data_offsets");
  ExpectRefused(tensor("2", "[0,8]"), 8, "a number in 'shape'");
}

TEST(SafetensorsHeaderTest, RefusesWhatTheFormatDoesNotKnow) {
  ExpectRefused("", 0, "not JSON");
  ExpectRefused("{", 0, "not JSON");
  ExpectRefused("[]", 0, "expected an object");
  ExpectRefused("{\"a\":1}", 0, "'a' is a number, expected an object");
  ExpectRefused("{\"a\":{}}", 0, "tensor 'a' lacks one of dtype, shape, data_offsets");
  ExpectRefused("{\"a\":{\"dtype\":\"Q4\"}}", 0, "tensor 'a' has the unknown dtype 'Q4'");
  ExpectRefused("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 0, "has 'dtype' twice");
  ExpectRefused("{\"a\":{\"place\":0}}", 0, "the unknown field 'place'");
  ExpectRefused("{\"__metadata__\":{\"a\":{}}}", 0, "__metadata__ holds an object");
  ExpectRefused("{\"" + std::string(2000, 'n') + "\":{}}", 0, "name has 2000 bytes");
  ExpectRefused("{\"\xff\":{}}", 0, "not JSON");
  ExpectRefused("{" + Entry("a") + "} x", 8, "not JSON");
}

// Nesting ends at the first level that the format does not have, however deep the text goes on.
TEST(SafetensorsHeaderTest, DepthIsBounded) {
  ExpectRefused("{\"a\":" + std::string(1000000, '['), 0, "'a' is an array");
  ExpectRefused("{\"a\":{\"shape\":" + std::string(1000000, '['), 0, "an array in 'shape'");
  std::string objects = "{\"a\":";
  for (int i = 0; i < 100000; ++i) objects += "{\"shape\":";
  ExpectRefused(objects, 0, "an object in 'shape'");
}

TEST(SafetensorsHeaderTest, DamagedHeadersNeverCrash) {
  const std::string sound = "{\"__metadata__\":{\"format\":\"pt\"}," + Entry("a") + "," + Entry("b", 8) + "}";
  ASSERT_TRUE(Parse(sound, 16).ok());
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = sound;
    for (int n = 0; n < 3; ++n) text[random() % text.size()] = "\"{}[]:,0987\\ax\xc3"[random() % 15];
    refused += Parse(text, 16).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 15000);
}

}  // namespace
}  // namespace hga
