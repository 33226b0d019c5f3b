// Reads the header of a GGUF file: metadata, the list of tensors, where their data lie.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/gguf.h"
#include "gpu_worker/model/gguf_types.h"

namespace hga {
namespace {

// Far above any real model, far below what would make the index of a hostile file large: a list of the largest kind
// takes about 10 MB here, a list of strings 128 MB and its text.
constexpr uint64_t kMaxEntries = 1 << 16;
constexpr uint64_t kMaxTensors = 1 << 16;
constexpr uint64_t kMaxArrayElements = 1 << 22;  // as many as a vocabulary may have tokens
constexpr uint64_t kMaxStringBytes = 1 << 24;    // a tokenizer.json kept as metadata
constexpr uint64_t kMaxArrayBytes = 1 << 28;
constexpr uint64_t kMaxNameBytes = 1 << 10;      // names in use have fewer than 64
constexpr uint32_t kMaxDims = 4;

constexpr char kPastEnd[] = " goes past the end of the file (truncated download?)";

// Types that files in use have and this reader does not.
const char* OtherTypeName(uint32_t type) {
  constexpr std::pair<uint32_t, const char*> kNames[] = {
      {9, "Q8_1"},     {10, "Q2_K"},    {11, "Q3_K"},   {15, "Q8_K"},   {16, "IQ2_XXS"}, {17, "IQ2_XS"},
      {18, "IQ3_XXS"}, {19, "IQ1_S"},   {20, "IQ4_NL"}, {21, "IQ3_S"},  {22, "IQ2_S"},   {23, "IQ4_XS"},
      {24, "I8"},      {25, "I16"},     {26, "I32"},    {27, "I64"},    {28, "F64"},     {29, "IQ1_M"},
      {34, "TQ1_0"},   {35, "TQ2_0"},   {39, "MXFP4"},
  };
  for (const auto& [number, name] : kNames) {
    if (number == type) return name;
  }
  return "unknown";
}

// Text from the file, fit for a message.
std::string Shown(const std::string& name) {
  constexpr size_t kShownBytes = 80;
  std::string shown = name.substr(0, kShownBytes);
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < ' ' || c == 127) c = '?';
  }
  return absl::StrCat("'", shown, name.size() > kShownBytes ? "...'" : "'");
}

}  // namespace

// Reads forward; every step says whether it stayed inside the file.
class GgufFile::Cursor {
 public:
  Cursor(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  template <typename T>
  bool Read(T* value) {
    if (left() < sizeof(T)) return false;
    std::memcpy(value, data_ + offset_, sizeof(T));
    offset_ += sizeof(T);
    return true;
  }
  bool Skip(uint64_t bytes) {
    if (bytes > left()) return false;
    offset_ += bytes;
    return true;
  }
  const char* here() const { return reinterpret_cast<const char*>(data_ + offset_); }
  size_t offset() const { return offset_; }
  size_t left() const { return size_ - offset_; }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t offset_ = 0;
};

absl::Status GgufFile::ParseHeader() {
  Cursor cursor(data_, size_);
  char magic[4];
  uint32_t version = 0;
  uint64_t tensors = 0, values = 0;
  if (!cursor.Read(&magic) || std::memcmp(magic, "GGUF", 4) != 0) return Broken("does not start with GGUF");
  if (!cursor.Read(&version)) return Broken("truncated header");
  if (version != 0 && (version & 0xffff) == 0) return Broken("is big-endian; only little-endian files are read");
  if (version != 2 && version != 3) return Broken(absl::StrCat("version ", version, "; 2 and 3 are read"));
  if (!cursor.Read(&tensors) || !cursor.Read(&values)) return Broken("truncated header");
  if (values > kMaxEntries || tensors > kMaxTensors) {
    return Broken(absl::StrCat("claims ", values, " metadata entries and ", tensors, " tensors, at most ", kMaxEntries,
                               " and ", kMaxTensors, " are read"));
  }
  const auto read_name = [&](std::string* name) {
    uint64_t length = 0;
    if (!cursor.Read(&length) || length > kMaxNameBytes || length > cursor.left()) return false;
    name->assign(cursor.here(), length);
    return cursor.Skip(length);
  };
  std::string name;
  for (uint64_t i = 0; i < values; ++i) {
    if (!read_name(&name)) return Broken(absl::StrCat("the key of metadata entry ", i, " of ", values, kPastEnd));
    HGA_RETURN_IF_ERROR(ParseValue(&cursor, name));
  }
  HGA_RETURN_IF_ERROR(CheckSplit());
  for (uint64_t i = 0; i < tensors; ++i) {
    if (!read_name(&name)) return Broken(absl::StrCat("the name of tensor ", i, " of ", tensors, kPastEnd));
    HGA_RETURN_IF_ERROR(ParseTensor(&cursor, name));
  }
  HGA_ASSIGN_OR_RETURN(const uint64_t alignment, Alignment());
  return PlaceTensors(alignment, (cursor.offset() + alignment - 1) / alignment * alignment);
}

absl::Status GgufFile::ParseValue(Cursor* cursor, const std::string& key) {
  const std::string what = absl::StrCat("metadata ", Shown(key));
  Value value{};
  value.count = 1;
  if (!cursor->Read(&value.type)) return Broken(what + kPastEnd);
  uint32_t element = value.type;
  if (value.type == kArray) {
    if (!cursor->Read(&value.element_type) || !cursor->Read(&value.count)) return Broken(what + kPastEnd);
    element = value.element_type;
    if (element == kArray) return Broken(what + " is an array of arrays");
    if (value.count > kMaxArrayElements) {
      return Broken(absl::StrCat(what, " has ", value.count, " elements, at most ", kMaxArrayElements, " are read"));
    }
  }
  if (element > kFloat64) return Broken(absl::StrCat(what, " has the unknown type ", element));
  value.offset = cursor->offset();
  if (element != kString) {
    if (!cursor->Skip(value.count * kGgufTypeBytes[element])) return Broken(what + kPastEnd);
  }
  for (uint64_t i = 0; element == kString && i < value.count; ++i) {
    uint64_t length = 0;
    if (!cursor->Read(&length)) return Broken(what + kPastEnd);
    if (length > kMaxStringBytes) {
      return Broken(absl::StrCat(what, " is a string of ", length, " bytes, at most ", kMaxStringBytes, " are read"));
    }
    if (!cursor->Skip(length)) return Broken(what + kPastEnd);
    if (cursor->offset() - value.offset > kMaxArrayBytes) {
      return Broken(absl::StrCat(what, " takes more than ", kMaxArrayBytes, " bytes"));
    }
  }
  if (!values_.emplace(key, value).second) return Broken(what + " stands there twice");
  return absl::OkStatus();
}

absl::Status GgufFile::CheckSplit() const {
  if (!Has("split.count")) return absl::OkStatus();
  HGA_ASSIGN_OR_RETURN(const uint64_t parts, GetUint("split.count"));
  if (parts <= 1) return absl::OkStatus();
  return Broken(absl::StrCat("is one of ", parts, " parts of a model; join them with llama-gguf-split --merge"));
}

absl::StatusOr<uint64_t> GgufFile::Alignment() const {
  constexpr char kKey[] = "general.alignment";
  if (!Has(kKey)) return 32;
  HGA_ASSIGN_OR_RETURN(const uint64_t alignment, GetUint(kKey));
  if (alignment >= 8 && alignment <= 65536 && (alignment & (alignment - 1)) == 0) return alignment;
  return Broken(absl::StrCat(kKey, " is ", alignment, ", must be a power of two from 8 to 65536"));
}

absl::Status GgufFile::ParseTensor(Cursor* cursor, const std::string& name) {
  const std::string what = absl::StrCat("tensor ", Shown(name));
  uint32_t dims = 0, type = 0;
  uint64_t shape[kMaxDims] = {1, 1, 1, 1};
  PlacedTensor tensor{};
  if (!cursor->Read(&dims)) return Broken(what + kPastEnd);
  if (dims == 0 || dims > kMaxDims) return Broken(absl::StrCat(what, " has ", dims, " dimensions, expected 1 to 3"));
  for (uint32_t d = 0; d < dims; ++d) {
    if (!cursor->Read(&shape[d])) return Broken(what + kPastEnd);
    if (shape[d] == 0 || shape[d] > UINT32_MAX) {
      return Broken(absl::StrCat(what, " has a dimension of ", shape[d], ", expected 1 to ", UINT32_MAX));
    }
  }
  if (!cursor->Read(&type) || !cursor->Read(&tensor.offset)) return Broken(what + kPastEnd);
  if (!TensorTypeSupported(type)) {
    return Broken(absl::StrCat(what, " has type ", type, " (", OtherTypeName(type), "), which is not supported; F32, ",
                               "F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K are"));
  }
  if (shape[3] != 1) return Broken(what + " has more than three dimensions");
  if (shape[1] * shape[2] > UINT32_MAX) {
    return Broken(absl::StrCat(what, " has ", shape[2], " times ", shape[1], " rows, at most ", UINT32_MAX,
                               " are read"));
  }
  tensor.view.type = static_cast<TensorType>(type);
  tensor.view.cols = static_cast<uint32_t>(shape[0]);
  tensor.view.rows = static_cast<uint32_t>(shape[1] * shape[2]);
  tensor.matrices = static_cast<uint32_t>(shape[2]);
  if (shape[0] % TensorBlockElements(tensor.view.type) != 0) {
    return Broken(absl::StrCat(what, ": ", shape[0], " columns are no whole number of ",
                               TensorTypeName(tensor.view.type), " blocks of ",
                               TensorBlockElements(tensor.view.type)));
  }
  if (!tensors_.emplace(name, tensor).second) return Broken(what + " stands there twice");
  tensor_names_.push_back(name);
  return absl::OkStatus();
}

absl::Status GgufFile::PlaceTensors(size_t alignment, size_t data_start) {
  std::vector<std::pair<uint64_t, const std::string*>> places;  // by offset
  for (const std::string& name : tensor_names_) {
    PlacedTensor& tensor = tensors_.at(name);
    const size_t row_bytes = tensor.view.row_bytes();
    if (data_start > size_ || tensor.offset > size_ - data_start ||
        tensor.view.rows > (size_ - data_start - tensor.offset) / row_bytes) {
      return Broken(absl::StrCat("tensor ", Shown(name), " of ", tensor.view.rows, " x ", row_bytes, " bytes at ",
                                 tensor.offset, kPastEnd));
    }
    if (tensor.offset % alignment != 0) {
      return Broken(absl::StrCat("tensor ", Shown(name), " at ", tensor.offset, " is not aligned to ", alignment));
    }
    tensor.view.data = data_ + data_start + tensor.offset;
    places.emplace_back(tensor.offset, &name);
  }
  std::sort(places.begin(), places.end());
  for (size_t i = 1; i < places.size(); ++i) {
    const TensorView& before = tensors_.at(*places[i - 1].second).view;
    if (places[i].first - places[i - 1].first < before.rows * before.row_bytes()) {
      return Broken(absl::StrCat("tensors ", Shown(*places[i - 1].second), " and ", Shown(*places[i].second),
                                 " overlap"));
    }
  }
  return absl::OkStatus();
}

}  // namespace hga
