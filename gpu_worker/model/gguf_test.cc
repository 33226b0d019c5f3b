#include "gpu_worker/model/gguf.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gpu_worker/model/tiny_model.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kU8 = 0, kI32 = 5, kF32Value = 6, kText = 8, kArray = 9, kU64 = 10;

template <typename T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
std::string Text(const std::string& text) { return Raw(uint64_t{text.size()}) + text; }
std::string Entry(const std::string& key, uint32_t type, const std::string& value) {
  return Text(key) + Raw(type) + value;
}
std::string TensorInfo(const std::string& name, std::vector<uint64_t> shape, uint32_t type, uint64_t offset) {
  std::string info = Text(name) + Raw(static_cast<uint32_t>(shape.size()));
  for (uint64_t dim : shape) info += Raw(dim);
  return info + Raw(type) + Raw(offset);
}

struct Parts {
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::vector<std::string> entries;
  std::vector<std::string> tensors;
  uint64_t claimed_entries = 0, claimed_tensors = 0;  // added to the true counts
  size_t alignment = 32;
  size_t data_bytes = 256;

  std::string Bytes() const {
    std::string file = magic + Raw(version) + Raw(tensors.size() + claimed_tensors) +
                       Raw(entries.size() + claimed_entries);
    for (const std::string& part : entries) file += part;
    for (const std::string& part : tensors) file += part;
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
    return file;
  }
};

class GgufTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/hga.XXXXXX";
    ASSERT_NE(::mkdtemp(folder), nullptr);
    folder_ = folder;
    path_ = folder_ + "/model.gguf";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    return GgufFile::Open(path_);
  }
  // The file is refused, and the message names it and says `what`.
  void ExpectRefused(const Parts& parts, const std::string& what) { ExpectRefusedBytes(parts.Bytes(), what); }
  void ExpectRefusedBytes(const std::string& bytes, const std::string& what) {
    const auto status = Open(bytes).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), what)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), path_)) << status;
  }

  std::string folder_, path_;
};

TEST_F(GgufTest, ReadsMetadataAndTensors) {
  Parts parts;
  parts.entries = {Entry("byte", kU8, Raw(uint8_t{200})), Entry("negative", kI32, Raw(int32_t{-5})),
                   Entry("huge", kU64, Raw(uint64_t{1} << 63)), Entry("float", kF32Value, Raw(1.5f)),
                   Entry("text", kText, Text("hello")),
                   Entry("texts", kArray, Raw(kText) + Raw(uint64_t{2}) + Text("a") + Text("")),
                   Entry("numbers", kArray, Raw(kI32) + Raw(uint64_t{2}) + Raw(int32_t{-1}) + Raw(int32_t{7})),
                   Entry("nothing", kArray, Raw(kText) + Raw(uint64_t{0}))};
  parts.tensors = {TensorInfo("matrix", {4, 3}, 0, 64), TensorInfo("vector", {8}, 0, 0)};
  const auto opened = Open(parts.Bytes());
  ASSERT_TRUE(opened.ok()) << opened.status();
  const GgufFile& file = **opened;
  EXPECT_EQ(*file.GetUint("byte"), 200u);
  EXPECT_EQ(file.GetUint("negative").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file.GetUint("huge").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*file.GetFloat("float"), 1.5f);
  EXPECT_EQ(*file.GetString("text"), "hello");
  EXPECT_EQ(*file.GetStrings("texts"), (std::vector<std::string>{"a", ""}));
  EXPECT_EQ(*file.GetInts("numbers"), (std::vector<int64_t>{-1, 7}));
  EXPECT_TRUE(file.GetStrings("nothing")->empty());
  EXPECT_EQ(file.GetUint("absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(file.GetString("byte").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(file.GetInts("texts").status().code(), absl::StatusCode::kInvalidArgument);
  const auto matrix = file.Tensor("matrix");
  ASSERT_TRUE(matrix.ok());
  EXPECT_EQ(matrix->rows, 3u);
  EXPECT_EQ(matrix->cols, 4u);
  EXPECT_EQ(matrix->row(1)[0], 64 + 16);  // data bytes count upwards
  EXPECT_EQ(file.Tensor("vector")->rows, 1u);
  EXPECT_EQ(file.Tensor("absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(file.tensor_names(), (std::vector<std::string>{"matrix", "vector"}));
}

TEST_F(GgufTest, MissingFileIsNotFound) {
  const auto status = GgufFile::Open(path_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), path_));
  EXPECT_EQ(GgufFile::Open(folder_).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GgufTest, RefusesWhatIsNotGguf) {
  ExpectRefusedBytes("", "empty");
  ExpectRefusedBytes("GG", "does not start with GGUF");
  Parts parts;
  parts.magic = "GGML";
  ExpectRefused(parts, "does not start with GGUF");
  parts = Parts();
  parts.version = 1;
  ExpectRefused(parts, "version 1; 2 and 3 are read");
  parts.version = 0x03000000;
  ExpectRefused(parts, "big-endian");
}

TEST_F(GgufTest, RefusesCountsThatCannotBe) {
  Parts parts;
  parts.claimed_entries = uint64_t{1} << 60;
  ExpectRefused(parts, "metadata entries");
  parts = Parts();
  parts.claimed_tensors = UINT64_MAX;
  ExpectRefused(parts, "tensors in");
  parts = Parts();
  parts.entries = {Entry("list", kArray, Raw(kText) + Raw(UINT64_MAX))};
  ExpectRefused(parts, "'list'");
  parts.entries = {Entry("list", kArray, Raw(kU64) + Raw(uint64_t{1} << 61))};
  ExpectRefused(parts, "'list'");
  parts.entries = {Entry("text", kText, Raw(UINT64_MAX - 7) + "x")};
  ExpectRefused(parts, "'text'");
  parts.entries = {Raw(UINT64_MAX)};  // length of a key
  ExpectRefused(parts, "metadata entry 0");
}

TEST_F(GgufTest, RefusesUnsoundMetadata) {
  Parts parts;
  parts.entries = {Entry("nested", kArray, Raw(kArray) + Raw(uint64_t{1}) + Raw(kU8) + Raw(uint64_t{0}))};
  ExpectRefused(parts, "'nested' is an array of arrays");
  parts.entries = {Entry("odd", 13, Raw(uint64_t{1}))};
  ExpectRefused(parts, "'odd' has the unknown type 13");
  parts.entries = {Entry("twin", kU8, "a"), Entry("twin", kU8, "b")};
  ExpectRefused(parts, "'twin' stands there twice");
  for (uint32_t alignment : {0u, 1u, 24u, 1u << 20}) {
    parts.entries = {Entry("general.alignment", 4, Raw(alignment))};
    ExpectRefused(parts, "alignment");
  }
}

TEST_F(GgufTest, RefusesUnsoundTensors) {
  const auto with = [](std::vector<std::string> tensors) {
    Parts parts;
    parts.tensors = std::move(tensors);
    return parts;
  };
  ExpectRefused(with({TensorInfo("t", {32}, 12, 0)}), "tensor 't' has type 12, which is not supported");
  ExpectRefused(with({TensorInfo("t", {}, 0, 0)}), "0 dimensions");
  ExpectRefused(with({TensorInfo("t", {1, 1, 1, 1, 1}, 0, 0)}), "5 dimensions");
  ExpectRefused(with({TensorInfo("t", {2, 2, 2}, 0, 0)}), "more than two dimensions");
  ExpectRefused(with({TensorInfo("t", {0}, 0, 0)}), "dimension of 0");
  ExpectRefused(with({TensorInfo("t", {uint64_t{1} << 40}, 0, 0)}), "dimension of 1099511627776");
  ExpectRefused(with({TensorInfo("t", {33}, 8, 0)}), "33 columns are no whole number of Q8_0 blocks");
  ExpectRefused(with({TensorInfo("t", {65}, 0, 0)}), "ends behind the end of the file");
  ExpectRefused(with({TensorInfo("t", {UINT32_MAX, UINT32_MAX}, 0, 0)}), "ends behind the end of the file");
  ExpectRefused(with({TensorInfo("t", {1}, 0, UINT64_MAX - 31)}), "ends behind the end of the file");
  ExpectRefused(with({TensorInfo("t", {8}, 0, 8)}), "not aligned to 32");
  ExpectRefused(with({TensorInfo("t", {8}, 0, 0), TensorInfo("t", {8}, 0, 32)}), "'t' stands there twice");
  ExpectRefused(with({TensorInfo("b", {9}, 0, 32), TensorInfo("c", {8}, 0, 64)}), "'b' and 'c' overlap");
  ExpectRefused(with({TensorInfo("b", {8}, 0, 32), TensorInfo("c", {8}, 0, 32)}), "'b' and 'c' overlap");
}

TEST_F(GgufTest, AlignmentOfTheFileIsHonoured) {
  Parts parts;
  parts.alignment = 128;
  parts.entries = {Entry("general.alignment", 4, Raw(uint32_t{128}))};
  parts.tensors = {TensorInfo("t", {4}, 0, 128)};
  const auto file = Open(parts.Bytes());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->Tensor("t")->data[0], 128);
}

// Each prefix of a sound file is refused, and none is read past its end (the sanitizers watch).
TEST_F(GgufTest, RefusesEveryTruncation) {
  TinyModelOptions options;
  options.layers = 1;
  ASSERT_TRUE(WriteTinyGguf(path_, options).ok());
  std::ifstream stream(path_, std::ios::binary);
  const std::string whole((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  ASSERT_TRUE(Open(whole).ok());
  for (size_t size = 1; size < whole.size(); size += size < 300 ? 1 : 1999) {
    EXPECT_EQ(Open(whole.substr(0, size)).status().code(), absl::StatusCode::kInvalidArgument) << size;
  }
}

}  // namespace
}  // namespace hga
