#include "gpu_worker/model/gguf.h"

#include <malloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/temporary_folder.h"
#include "gpu_worker/model/tiny_model.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kU8 = 0, kU32 = 4, kI32 = 5, kF32Value = 6, kText = 8, kList = 9, kU64 = 10, kF64Value = 12;

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
  absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    return GgufFile::Open(path_);
  }
  // The file is refused, and the message names it and says `what`.
  void ExpectRefused(const Parts& parts, const std::string& what) { ExpectRefusedBytes(parts.Bytes(), what); }
  void ExpectRefusedBytes(const std::string& bytes, const std::string& what) {
    ExpectNamed(Open(bytes).status(), what);
  }
  void ExpectNamed(const absl::Status& status, const std::string& what) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), what)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), path_)) << status;
  }

  const TemporaryFolder folder_;
  const std::string path_ = folder_.File("model.gguf");
};

TEST_F(GgufTest, ReadsMetadataAndTensors) {
  Parts parts;
  parts.entries = {Entry("byte", kU8, Raw(uint8_t{200})), Entry("negative", kI32, Raw(int32_t{-5})),
                   Entry("huge", kU64, Raw(uint64_t{1} << 63)), Entry("float", kF32Value, Raw(1.5f)),
                   Entry("text", kText, Text("hello")),
                   Entry("texts", kList, Raw(kText) + Raw(uint64_t{2}) + Text("a") + Text("")),
                   Entry("numbers", kList, Raw(kI32) + Raw(uint64_t{2}) + Raw(int32_t{-1}) + Raw(int32_t{7})),
                   Entry("double", kF64Value, Raw(-2.5)), Entry("vast", kF64Value, Raw(1e300)),
                   Entry("floats", kList, Raw(kF32Value) + Raw(uint64_t{2}) + Raw(-1.0f) + Raw(0.25f)),
                   Entry("nothing", kList, Raw(kText) + Raw(uint64_t{0}))};
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
  EXPECT_EQ(*file.GetFloat("double"), -2.5f);
  EXPECT_TRUE(std::isinf(*file.GetFloat("vast")));
  EXPECT_EQ(*file.GetFloats("floats"), (std::vector<float>{-1, 0.25f}));
  EXPECT_EQ(file.GetFloats("numbers").status().code(), absl::StatusCode::kInvalidArgument);
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

TEST_F(GgufTest, VersionTwoReadsAsThree) {
  Parts parts;
  parts.version = 2;
  parts.entries = {Entry("text", kText, Text("hello"))};
  parts.tensors = {TensorInfo("matrix", {4, 3}, 0, 64)};
  const auto opened = Open(parts.Bytes());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(*(*opened)->GetString("text"), "hello");
  EXPECT_EQ((*opened)->Tensor("matrix")->row(1)[0], 64 + 16);
}

TEST_F(GgufTest, ThirdDimensionIsAListOfMatrices) {
  Parts parts;
  parts.tensors = {TensorInfo("experts", {4, 3, 2, 1}, 0, 0), TensorInfo("matrix", {4, 3}, 0, 96)};
  const auto opened = Open(parts.Bytes());
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->Tensor("experts")->rows, 6u);
  const auto experts = (*opened)->Matrices("experts");
  ASSERT_TRUE(experts.ok());
  ASSERT_EQ(experts->size(), 2u);
  for (uint32_t i = 0; i < 2; ++i) {
    EXPECT_EQ((*experts)[i].rows, 3u);
    EXPECT_EQ((*experts)[i].cols, 4u);
    EXPECT_EQ((*experts)[i].data[0], i * 48);
  }
  ASSERT_EQ((*opened)->Matrices("matrix")->size(), 1u);
  EXPECT_EQ((*opened)->Matrices("matrix")->front().rows, 3u);
  EXPECT_EQ((*opened)->Matrices("absent").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(GgufTest, MissingFileIsNotFound) {
  const auto status = GgufFile::Open(path_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(status.message(), path_));
}

TEST_F(GgufTest, BytesReadAsAFileDoes) {
  Parts parts;
  parts.tensors = {TensorInfo("vector", {8}, 0, 32)};
  const std::string text = parts.Bytes();
  const std::vector<uint8_t> bytes(text.begin(), text.end());
  const auto parsed = GgufFile::Parse("some bytes", bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ((*parsed)->Tensor("vector")->data, bytes.data() + bytes.size() - 256 + 32);
  EXPECT_TRUE(absl::StrContains(GgufFile::Parse("some bytes", {}).status().message(), "some bytes"));
}

TEST_F(GgufTest, RefusesWhatIsNoRegularFile) {
  const auto folder = GgufFile::Open(folder_.path()).status();
  EXPECT_EQ(folder.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(folder.message(), folder_.path() + " is a folder")) << folder;
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  ExpectNamed(GgufFile::Open(path_).status(), "is not a regular file");  // and does not wait for a writer
  EXPECT_EQ(GgufFile::Open("/dev/zero").status().code(), absl::StatusCode::kInvalidArgument);
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
  parts.version = 4;
  ExpectRefused(parts, "version 4; 2 and 3 are read");
  parts.version = 0x03000000;
  ExpectRefused(parts, "big-endian");
  parts.version = 0x02000000;
  ExpectRefused(parts, "big-endian");
}

TEST_F(GgufTest, RefusesOnePartOfASplitModel) {
  Parts parts;
  parts.entries = {Entry("split.count", 2, Raw(uint16_t{3}))};
  ExpectRefused(parts, "one of 3 parts");
  parts.entries = {Entry("split.count", 2, Raw(uint16_t{1}))};
  EXPECT_TRUE(Open(parts.Bytes()).ok());
}

TEST_F(GgufTest, RefusesCountsThatCannotBe) {
  Parts parts;
  for (uint64_t many : {uint64_t{1} << 17, uint64_t{1} << 63, UINT64_MAX}) {
    parts = Parts();
    parts.claimed_entries = many;
    ExpectRefused(parts, absl::StrCat("claims ", many, " metadata entries"));
    parts = Parts();
    parts.claimed_tensors = many;
    ExpectRefused(parts, absl::StrCat(many, " tensors"));
  }
  parts = Parts();
  parts.claimed_entries = 1;
  parts.alignment = 1;
  parts.data_bytes = 0;
  ExpectRefused(parts, "metadata entry 0 of 1");
  parts.alignment = 32;
  for (uint32_t element : {kText, kU64, kU8}) {
    parts.entries = {Entry("list", kList, Raw(element) + Raw(uint64_t{1} << 63))};
    ExpectRefused(parts, "'list' has 9223372036854775808 elements");
    parts.entries = {Entry("list", kList, Raw(element) + Raw(uint64_t{1} << 22))};
    ExpectRefused(parts, "'list' goes past the end");
  }
  parts.entries = {Entry("text", kText, Raw(UINT64_MAX - 7) + "x")};
  ExpectRefused(parts, "'text' is a string of 18446744073709551608 bytes");
  parts.entries = {Entry("text", kText, Raw(uint64_t{1} << 20) + "x")};
  ExpectRefused(parts, "'text' goes past the end");
  parts.entries = {Entry("texts", kList, Raw(kText) + Raw(uint64_t{2}) + Text("a") + Raw(uint64_t{1} << 20))};
  ExpectRefused(parts, "'texts' goes past the end");
  parts.entries = {Raw(UINT64_MAX)};  // length of a key
  ExpectRefused(parts, "metadata entry 0");
}

// 100 MB of metadata are walked through, not copied: what is kept is the place of each entry.
TEST_F(GgufTest, LargeMetadataCostsNoMemory) {
  constexpr uint64_t kCount = 1 << 22;
  std::ofstream stream(path_, std::ios::binary);
  stream << "GGUF" << Raw(uint32_t{3}) << Raw(uint64_t{0}) << Raw(uint64_t{3});
  for (uint32_t element : {kU64, kText, kF64Value}) {  // zeros and empty strings: holes in the file
    stream << Entry(absl::StrCat("list", element), kList, Raw(element) + Raw(kCount));
    stream.seekp(kCount * 8, std::ios::cur);
  }
  stream << std::string(64, 0);
  stream.close();
  ASSERT_GT(std::filesystem::file_size(path_), 100000000u);
  const auto heap = [] { return ::mallinfo2().uordblks + ::mallinfo2().hblkhd; };
  const size_t before = heap();
  const auto opened = GgufFile::Open(path_);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_LT(heap(), before + (1 << 16));
  EXPECT_EQ((*opened)->GetFloats(absl::StrCat("list", kF64Value))->size(), kCount);
}

TEST_F(GgufTest, RefusesMetadataThatNoModelNeeds) {
  std::ofstream stream(path_, std::ios::binary);
  Parts parts;
  const uint64_t bytes = (1 << 24) + 1;
  parts.entries = {Entry("text", kText, Raw(bytes))};
  const std::string head = parts.Bytes();
  stream << head;
  stream.close();
  std::filesystem::resize_file(path_, head.size() + bytes);  // sparse
  ExpectNamed(GgufFile::Open(path_).status(), "'text' is a string of 16777217 bytes, at most 16777216 are read");
  parts.entries = {Entry(std::string(1025, 'k'), kU8, "a")};
  ExpectRefused(parts, "metadata entry 0");
}

TEST_F(GgufTest, MessagesShowNamesInOneShortLine) {
  Parts parts;
  const std::string name = "bad\n\x1b[31m" + std::string(300, 'n');
  parts.entries = {Entry(name, 99, "")};
  const auto status = Open(parts.Bytes()).status();
  EXPECT_FALSE(absl::StrContains(status.message(), "\n")) << status;
  EXPECT_FALSE(absl::StrContains(status.message(), "\x1b")) << status;
  EXPECT_LT(status.message().size(), 300u);
}

TEST_F(GgufTest, RefusesUnsoundMetadata) {
  Parts parts;
  parts.entries = {Entry("nested", kList, Raw(kList) + Raw(uint64_t{1}) + Raw(kU8) + Raw(uint64_t{0}))};
  ExpectRefused(parts, "'nested' is an array of arrays");
  parts.entries = {Entry("odd", 13, Raw(uint64_t{1}))};
  ExpectRefused(parts, "'odd' has the unknown type 13");
  parts.entries = {Entry("twin", kU8, "a"), Entry("twin", kU8, "b")};
  ExpectRefused(parts, "'twin' stands there twice");
  for (uint32_t alignment : {0u, 1u, 24u, 1u << 20}) {
    parts.entries = {Entry("general.alignment", kU32, Raw(alignment))};
    ExpectRefused(parts, "general.alignment is ");
  }
  parts.entries = {Entry("general.alignment", kText, Text("32"))};
  ExpectRefused(parts, "'general.alignment' is not an integer");
}

TEST_F(GgufTest, RefusesUnsoundTensors) {
  const auto with = [](std::vector<std::string> tensors) {
    Parts parts;
    parts.tensors = std::move(tensors);
    return parts;
  };
  ExpectRefused(with({TensorInfo("t", {256}, 10, 0)}), "tensor 't' has type 10 (Q2_K), which is not supported");
  ExpectRefused(with({TensorInfo("t", {32}, 77, 0)}), "tensor 't' has type 77 (unknown), which is not supported");
  ExpectRefused(with({TensorInfo("t", {32}, 0x10000, 0)}), "not supported");  // ours, not GGUF's
  ExpectRefused(with({TensorInfo("t", {}, 0, 0)}), "0 dimensions");
  ExpectRefused(with({TensorInfo("t", {1, 1, 1, 1, 1}, 0, 0)}), "5 dimensions");
  ExpectRefused(with({TensorInfo("t", {2, 2, 2, 2}, 0, 0)}), "more than three dimensions");
  ExpectRefused(with({TensorInfo("t", {1, 1 << 16, 1 << 16}, 0, 0)}), "65536 times 65536 rows");
  ExpectRefused(with({TensorInfo("t", {UINT32_MAX, UINT32_MAX, UINT32_MAX}, 0, 0)}), "rows");
  ExpectRefused(with({TensorInfo("t", {1, UINT64_MAX}, 0, 0)}), "dimension of 18446744073709551615");
  ExpectRefused(with({TensorInfo("t", {0}, 0, 0)}), "dimension of 0");
  ExpectRefused(with({TensorInfo("t", {uint64_t{1} << 40}, 0, 0)}), "dimension of 1099511627776");
  ExpectRefused(with({TensorInfo("t", {33}, 8, 0)}), "33 columns are no whole number of Q8_0 blocks");
  ExpectRefused(with({TensorInfo("t", {65}, 0, 0)}), "goes past the end of the file");
  ExpectRefused(with({TensorInfo("t", {UINT32_MAX, UINT32_MAX}, 0, 0)}), "goes past the end of the file");
  ExpectRefused(with({TensorInfo("t", {1}, 0, UINT64_MAX - 31)}), "goes past the end of the file");
  ExpectRefused(with({TensorInfo("t", {1}, 0, UINT64_MAX)}), "goes past the end of the file");
  ExpectRefused(with({TensorInfo("t", {255}, 14, 0)}), "255 columns are no whole number of Q6_K blocks of 256");
  ExpectRefused(with({TensorInfo("t", {8}, 0, 8)}), "not aligned to 32");
  ExpectRefused(with({TensorInfo("t", {8}, 0, 0), TensorInfo("t", {8}, 0, 32)}), "'t' stands there twice");
  ExpectRefused(with({TensorInfo("b", {9}, 0, 32), TensorInfo("c", {8}, 0, 64)}), "'b' and 'c' overlap");
  ExpectRefused(with({TensorInfo("b", {8}, 0, 32), TensorInfo("c", {8}, 0, 32)}), "'b' and 'c' overlap");
}

TEST_F(GgufTest, AlignmentOfTheFileIsHonoured) {
  Parts parts;
  parts.alignment = 128;
  parts.entries = {Entry("general.alignment", kU32, Raw(uint32_t{128}))};
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
  ASSERT_TRUE(GgufFile::Open(path_).ok());
  for (size_t size = std::filesystem::file_size(path_) - 1; size > 0; size -= std::min<size_t>(size, 61)) {
    std::filesystem::resize_file(path_, size);
    ExpectNamed(GgufFile::Open(path_).status(), "");
  }
}

}  // namespace
}  // namespace hga
