#include "gpu_worker/model/gguf.h"

#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/gguf_types.h"

namespace hga {
absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  auto mapped = ReadOnlyFile::Open(path);
  if (absl::IsNotFound(mapped.status())) return absl::NotFoundError(absl::StrCat("no model file ", path));
  if (!mapped.ok()) return mapped.status();
  HGA_ASSIGN_OR_RETURN(auto file, Parse(path, absl::MakeConstSpan((*mapped)->data(), (*mapped)->size())));
  file->mapped_ = *std::move(mapped);
  return file;
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Parse(const std::string& path, absl::Span<const uint8_t> bytes) {
  std::unique_ptr<GgufFile> file(new GgufFile);
  file->path_ = path;
  file->data_ = bytes.data();
  file->size_ = bytes.size();
  HGA_RETURN_IF_ERROR(file->ParseHeader());
  return file;
}

absl::Status GgufFile::Broken(const std::string& what) const {
  return absl::InvalidArgumentError(absl::StrCat("GGUF file ", path_, ": ", what));
}

absl::StatusOr<const GgufFile::Value*> GgufFile::Find(const std::string& key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) {
    return absl::NotFoundError(absl::StrCat("GGUF file ", path_, ": no metadata '", key, "'"));
  }
  return &found->second;
}

int64_t GgufFile::IntAt(uint32_t type, size_t offset) const {
  uint64_t raw = 0;
  std::memcpy(&raw, data_ + offset, kGgufTypeBytes[type]);
  switch (type) {
    case kInt8: return static_cast<int8_t>(raw);
    case kInt16: return static_cast<int16_t>(raw);
    case kInt32: return static_cast<int32_t>(raw);
    default: return static_cast<int64_t>(raw);
  }
}

float GgufFile::FloatAt(uint32_t type, size_t offset) const {
  if (type == kFloat32) {
    float number;
    std::memcpy(&number, data_ + offset, sizeof(number));
    return number;
  }
  double number;
  std::memcpy(&number, data_ + offset, sizeof(number));
  // A cast of what a float cannot hold is undefined.
  if (number > std::numeric_limits<float>::max()) return std::numeric_limits<float>::infinity();
  if (number < std::numeric_limits<float>::lowest()) return -std::numeric_limits<float>::infinity();
  return static_cast<float>(number);
}

absl::StatusOr<uint64_t> GgufFile::GetUint(const std::string& key) const {
  HGA_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (!IsGgufInteger(value->type)) return Broken(absl::StrCat("metadata '", key, "' is not an integer"));
  const int64_t number = IntAt(value->type, value->offset);
  if (number < 0) return Broken(absl::StrCat("metadata '", key, "' is negative or too large"));
  return static_cast<uint64_t>(number);
}

absl::StatusOr<float> GgufFile::GetFloat(const std::string& key) const {
  HGA_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (!IsGgufFloat(value->type)) return Broken(absl::StrCat("metadata '", key, "' is not a float"));
  return FloatAt(value->type, value->offset);
}

absl::StatusOr<std::string> GgufFile::GetString(const std::string& key) const {
  HGA_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->type != kString) return Broken(absl::StrCat("metadata '", key, "' is not a string"));
  uint64_t length;
  std::memcpy(&length, data_ + value->offset, sizeof(length));
  return std::string(reinterpret_cast<const char*>(data_ + value->offset + 8), length);
}

absl::StatusOr<std::vector<std::string>> GgufFile::GetStrings(const std::string& key) const {
  HGA_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->type != kArray || value->element_type != kString) {
    return Broken(absl::StrCat("metadata '", key, "' is not an array of strings"));
  }
  std::vector<std::string> strings(value->count);
  size_t offset = value->offset;
  for (std::string& text : strings) {
    uint64_t length;
    std::memcpy(&length, data_ + offset, sizeof(length));
    text.assign(reinterpret_cast<const char*>(data_ + offset + 8), length);
    offset += 8 + length;
  }
  return strings;
}

absl::StatusOr<std::vector<int64_t>> GgufFile::GetInts(const std::string& key) const {
  HGA_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->type != kArray || !IsGgufInteger(value->element_type)) {
    return Broken(absl::StrCat("metadata '", key, "' is not an array of integers"));
  }
  std::vector<int64_t> numbers(value->count);
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = IntAt(value->element_type, value->offset + i * kGgufTypeBytes[value->element_type]);
  }
  return numbers;
}

absl::StatusOr<std::vector<float>> GgufFile::GetFloats(const std::string& key) const {
  HGA_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->type != kArray || !IsGgufFloat(value->element_type)) {
    return Broken(absl::StrCat("metadata '", key, "' is not an array of floats"));
  }
  std::vector<float> numbers(value->count);
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = FloatAt(value->element_type, value->offset + i * kGgufTypeBytes[value->element_type]);
  }
  return numbers;
}

absl::StatusOr<TensorView> GgufFile::Tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("GGUF file ", path_, ": no tensor '", name, "'"));
  }
  return found->second.view;
}

absl::StatusOr<std::vector<TensorView>> GgufFile::Matrices(const std::string& name) const {
  HGA_ASSIGN_OR_RETURN(TensorView matrix, Tensor(name));
  const uint32_t count = tensors_.at(name).matrices;
  matrix.rows /= count;
  std::vector<TensorView> matrices(count, matrix);
  for (uint32_t i = 0; i < count; ++i) matrices[i].data = matrix.row(0) + size_t{i} * matrix.rows * matrix.row_bytes();
  return matrices;
}

}  // namespace hga
