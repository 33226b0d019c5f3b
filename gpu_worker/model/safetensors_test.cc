#include "gpu_worker/model/safetensors.h"

#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/temporary_folder.h"
#include "gpu_worker/model/checkpoint_writer.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kSecond[] = "model-00002-of-00002.safetensors";

class SafetensorsTest : public ::testing::Test {
 protected:
  void WriteTwo(uint64_t shard_bytes = UINT64_MAX) {
    const std::vector<TensorToWrite> tensors = {{"a.weight", "F32", {2, 4}, TensorFill::kOne},
                                                {"b.weight", "BF16", {3, 5}, TensorFill::kRandom}};
    const absl::Status status = WriteSafetensors(folder_.path(), tensors, 1, shard_bytes);
    ASSERT_TRUE(status.ok()) << status;
  }
  void ExpectRefused(absl::StatusCode code, const std::string& file, const std::string& what) {
    const absl::Status status = SafetensorsCheckpoint::Open(folder_.path()).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), what)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), file)) << status;
  }
  void Replace(const std::string& file, const std::string& from, const std::string& to) {
    std::string bytes = folder_.Read(file);
    const size_t at = bytes.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    folder_.Write(file, bytes.replace(at, from.size(), to));
  }
  static std::string Prefixed(uint64_t claimed, const std::string& text) {
    return std::string(reinterpret_cast<const char*>(&claimed), sizeof(claimed)) + text;
  }

  const absl::StatusCode invalid_ = absl::StatusCode::kInvalidArgument;
  TemporaryFolder folder_;
};

TEST_F(SafetensorsTest, SingleFileAndShardsHoldTheSame) {
  WriteTwo();
  const auto single = SafetensorsCheckpoint::Open(folder_.path());
  ASSERT_TRUE(single.ok()) << single.status();
  EXPECT_EQ((*single)->file_count(), 1u);
  EXPECT_EQ((*single)->file_bytes(), std::filesystem::file_size(folder_.File(kSingle)));
  const auto* a = (*single)->Find("a.weight");
  ASSERT_NE(a, nullptr);
  float first;
  std::memcpy(&first, a->data, sizeof(first));
  EXPECT_EQ(first, 1.0f);
  EXPECT_EQ(a->shape, (std::vector<uint64_t>{2, 4}));
  EXPECT_EQ((*single)->Find("c.weight"), nullptr);

  std::filesystem::remove(folder_.File(kSingle));
  WriteTwo(/*shard_bytes=*/32);
  const auto sharded = SafetensorsCheckpoint::Open(folder_.path());
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  EXPECT_EQ((*sharded)->file_count(), 2u);
  const auto* b = (*sharded)->Find("b.weight");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->bytes, 30u);
  EXPECT_EQ(*b->file, folder_.File(kSecond));
}

TEST_F(SafetensorsTest, RefusesFoldersWithoutACheckpoint) {
  ExpectRefused(absl::StatusCode::kNotFound, folder_.path(), "holds neither model.safetensors nor");
  std::filesystem::create_directory(folder_.File(kSingle));
  ExpectRefused(invalid_, kSingle, "is a folder, expected a file");
  std::filesystem::remove(folder_.File(kSingle));
  ASSERT_EQ(::mkfifo(folder_.File(kSingle).c_str(), 0600), 0);
  ExpectRefused(invalid_, kSingle, "is not a regular file");
}

TEST_F(SafetensorsTest, RefusesDamagedFiles) {
  folder_.Write(kSingle, "");
  ExpectRefused(invalid_, kSingle, "is empty");
  folder_.Write(kSingle, "1234567");
  ExpectRefused(invalid_, kSingle, "shorter than its header");
  folder_.Write(kSingle, Prefixed(100000001, "{}"));
  ExpectRefused(invalid_, kSingle, "claims a header of 100000001 bytes, expected at most 100000000");
  folder_.Write(kSingle, Prefixed(UINT64_MAX, "{}"));
  ExpectRefused(invalid_, kSingle, "claims a header of 18446744073709551615 bytes");
  folder_.Write(kSingle, Prefixed(100, "{}"));
  ExpectRefused(invalid_, kSingle, "truncated download?");
  WriteTwo();
  std::filesystem::resize_file(folder_.File(kSingle), std::filesystem::file_size(folder_.File(kSingle)) - 1);
  ExpectRefused(invalid_, kSingle, "tensor 'b.weight' ends at 62 of 61 bytes of data (truncated download?)");
}

// The bound is on what is read, not on what is there: 100 MB of opened brackets end at the first wrong one.
TEST_F(SafetensorsTest, LargestHeaderIsRefusedQuickly) {
  const uint64_t size = kMaxSafetensorsHeaderBytes;
  folder_.Write(kSingle, Prefixed(size, "{\"a\":" + std::string(10, '[')));
  std::filesystem::resize_file(folder_.File(kSingle), 8 + size);
  ExpectRefused(invalid_, kSingle, "'a' is an array");
}

TEST_F(SafetensorsTest, RefusesWrongShards) {
  WriteTwo(/*shard_bytes=*/32);
  Replace(kIndex, "\"b.weight\": \"model-00002", "\"b.weight\": \"../model-00002");
  ExpectRefused(invalid_, kIndex, "weight_map['b.weight'] is '../model-00002-of-00002.safetensors', expected the name");
  WriteTwo(32);
  Replace(kIndex, "\"b.weight\"", "\"c.weight\"");
  ExpectRefused(invalid_, kIndex, "tensor 'c.weight' is not in model-00002-of-00002.safetensors");
  WriteTwo(32);
  Replace(kIndex, "\"weight_map\"", "\"weight_mop\"");
  ExpectRefused(invalid_, kIndex, "'weight_map' is missing or empty");
  WriteTwo(32);
  std::filesystem::remove(folder_.File(kSecond));
  ExpectRefused(absl::StatusCode::kNotFound, kSecond, "is missing");
  ExpectRefused(absl::StatusCode::kNotFound, kSecond, "names 2 shards");
  std::filesystem::copy_file(folder_.File("model-00001-of-00002.safetensors"), folder_.File(kSecond));
  ExpectRefused(invalid_, kSecond, "tensor 'a.weight' stands in");
}

TEST_F(SafetensorsTest, RefusesWrongIndexFiles) {
  folder_.Write(kIndex, "{\"weight_map\":");
  ExpectRefused(invalid_, kIndex, "is not JSON");
  folder_.Write(kIndex, "[1]");
  ExpectRefused(invalid_, kIndex, "expected a JSON object");
  folder_.Write(kIndex, std::string(100, '[') + std::string(100, ']'));
  ExpectRefused(invalid_, kIndex, "nested more than 16 deep");
  folder_.Write(kIndex, "{}");
  std::filesystem::resize_file(folder_.File(kIndex), 100 << 20);
  ExpectRefused(invalid_, kIndex, "has 104857600 bytes, expected at most");
}

}  // namespace
}  // namespace hga
