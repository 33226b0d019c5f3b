#include "gpu_worker/model/gguf.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

enum GgufType : uint32_t {
  kUint8, kInt8, kUint16, kInt16, kUint32, kInt32, kFloat32, kBool, kString, kArray, kUint64, kInt64, kFloat64
};
constexpr uint32_t kTypeBytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

constexpr uint64_t kMaxNameBytes = 1 << 16;
constexpr uint32_t kMaxDims = 4;

bool IsInteger(uint32_t type) { return type <= kInt32 || type == kBool || type == kUint64 || type == kInt64; }

}  // namespace

// Reads forward; every step says whether it stayed inside the file.
class GgufFile::Cursor {
 public:
  Cursor(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  template <typename T>
  bool Read(T* value) {
    if (size_ - offset_ < sizeof(T)) return false;
    std::memcpy(value, data_ + offset_, sizeof(T));
    offset_ += sizeof(T);
    return true;
  }
  bool ReadString(std::string* text, uint64_t max_bytes) {
    uint64_t length = 0;
    if (!Read(&length) || length > size_ - offset_ || length > max_bytes) return false;
    text->assign(reinterpret_cast<const char*>(data_ + offset_), length);
    offset_ += length;
    return true;
  }
  bool SkipString() {
    uint64_t length = 0;
    return Read(&length) && Skip(length);
  }
  bool Skip(uint64_t bytes) {
    if (bytes > size_ - offset_) return false;
    offset_ += bytes;
    return true;
  }
  size_t offset() const { return offset_; }
  size_t left() const { return size_ - offset_; }

 private:
  const uint8_t* data_;
  size_t size_;
  size_t offset_ = 0;
};

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    if (errno == ENOENT) return absl::NotFoundError(absl::StrCat("no model file ", path));
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open the model file ", path));
  }
  struct stat info;
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file; expected a GGUF model"));
  }
  std::unique_ptr<GgufFile> file(new GgufFile);
  file->path_ = path;
  if (info.st_size > 0) {
    void* data = ::mmap(nullptr, info.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (data != MAP_FAILED) {
      file->data_ = static_cast<const uint8_t*>(data);
      file->size_ = info.st_size;
    }
  }
  ::close(fd);
  if (file->data_ == nullptr) return absl::InvalidArgumentError(absl::StrCat(path, " is empty or cannot be mapped"));
  HGA_RETURN_IF_ERROR(file->Parse());
  return file;
}

GgufFile::~GgufFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), size_);
}

absl::Status GgufFile::Broken(const std::string& what) const {
  return absl::InvalidArgumentError(absl::StrCat("GGUF file ", path_, ": ", what));
}

absl::Status GgufFile::Parse() {
  Cursor cursor(data_, size_);
  char magic[4];
  uint32_t version = 0;
  uint64_t tensors = 0, values = 0;
  if (!cursor.Read(&magic) || std::memcmp(magic, "GGUF", 4) != 0) return Broken("does not start with GGUF");
  if (!cursor.Read(&version)) return Broken("truncated header");
  if (version != 0 && (version & 0xffff) == 0) return Broken("is big-endian; only little-endian files are read");
  if (version != 2 && version != 3) return Broken(absl::StrCat("version ", version, "; 2 and 3 are read"));
  if (!cursor.Read(&tensors) || !cursor.Read(&values)) return Broken("truncated header");
  // A metadata entry takes 13 bytes at least, a tensor 25: more of them than fit is a lie.
  if (values > size_ / 13 || tensors > size_ / 25) {
    return Broken(absl::StrCat("claims ", values, " metadata entries and ", tensors, " tensors in ", size_, " bytes"));
  }
  for (uint64_t i = 0; i < values; ++i) {
    std::string key;
    if (!cursor.ReadString(&key, kMaxNameBytes)) return Broken(absl::StrCat("truncated at metadata entry ", i));
    HGA_RETURN_IF_ERROR(ParseValue(&cursor, key));
  }
  for (uint64_t i = 0; i < tensors; ++i) HGA_RETURN_IF_ERROR(ParseTensor(&cursor));
  uint64_t alignment = 32;
  if (Has("general.alignment")) {
    HGA_ASSIGN_OR_RETURN(alignment, GetUint("general.alignment"));
    if (alignment < 8 || alignment > 65536 || (alignment & (alignment - 1)) != 0) {
      return Broken(absl::StrCat("alignment ", alignment, " is not a power of two from 8 to 65536"));
    }
  }
  return PlaceTensors(alignment, (cursor.offset() + alignment - 1) / alignment * alignment);
}

absl::Status GgufFile::ParseValue(Cursor* cursor, const std::string& key) {
  Value value{};
  value.count = 1;
  const auto truncated = [&] { return Broken(absl::StrCat("truncated in metadata '", key, "'")); };
  if (!cursor->Read(&value.type)) return truncated();
  uint32_t element = value.type;
  if (value.type == kArray) {
    if (!cursor->Read(&value.element_type) || !cursor->Read(&value.count)) return truncated();
    element = value.element_type;
    if (element == kArray) return Broken(absl::StrCat("metadata '", key, "' is an array of arrays"));
  }
  if (element > kFloat64) return Broken(absl::StrCat("metadata '", key, "' has the unknown type ", element));
  value.offset = cursor->offset();
  if (element == kString) {
    if (value.count > cursor->left() / 8) return truncated();
    for (uint64_t i = 0; i < value.count; ++i) {
      if (!cursor->SkipString()) return truncated();
    }
  } else if (value.count > cursor->left() / kTypeBytes[element] || !cursor->Skip(value.count * kTypeBytes[element])) {
    return truncated();
  }
  if (!values_.emplace(key, value).second) return Broken(absl::StrCat("metadata '", key, "' stands there twice"));
  return absl::OkStatus();
}

absl::Status GgufFile::ParseTensor(Cursor* cursor) {
  std::string name;
  uint32_t dims = 0, type = 0;
  if (!cursor->ReadString(&name, kMaxNameBytes) || !cursor->Read(&dims)) return Broken("truncated in the tensor list");
  if (dims == 0 || dims > kMaxDims) return Broken(absl::StrCat("tensor '", name, "' has ", dims, " dimensions"));
  uint64_t shape[kMaxDims] = {1, 1, 1, 1}, offset = 0;
  for (uint32_t d = 0; d < dims; ++d) {
    if (!cursor->Read(&shape[d])) return Broken(absl::StrCat("truncated in tensor '", name, "'"));
    if (shape[d] == 0 || shape[d] > UINT32_MAX) {
      return Broken(absl::StrCat("tensor '", name, "' has a dimension of ", shape[d]));
    }
  }
  if (!cursor->Read(&type) || !cursor->Read(&offset)) return Broken(absl::StrCat("truncated in tensor '", name, "'"));
  if (!TensorTypeSupported(type)) {
    return Broken(absl::StrCat("tensor '", name, "' has type ", type,
                               ", which is not supported (F32, F16, BF16, Q4_0, Q4_1, Q8_0, Q6_K are)"));
  }
  if (shape[2] != 1 || shape[3] != 1) return Broken(absl::StrCat("tensor '", name, "' has more than two dimensions"));
  TensorView view;
  view.type = static_cast<TensorType>(type);
  view.cols = static_cast<uint32_t>(shape[0]);
  view.rows = static_cast<uint32_t>(shape[1]);
  if (view.cols % TensorBlockElements(view.type) != 0) {
    return Broken(absl::StrCat("tensor '", name, "': ", view.cols, " columns are no whole number of ",
                               TensorTypeName(view.type), " blocks"));
  }
  if (!tensors_.emplace(name, view).second) return Broken(absl::StrCat("tensor '", name, "' stands there twice"));
  offsets_.emplace(name, offset);
  tensor_names_.push_back(name);
  return absl::OkStatus();
}

absl::Status GgufFile::PlaceTensors(size_t alignment, size_t data_start) {
  std::vector<std::pair<uint64_t, std::string>> places;  // by offset
  for (const std::string& name : tensor_names_) {
    TensorView& view = tensors_[name];
    const uint64_t offset = offsets_[name];
    const size_t row_bytes = view.row_bytes();
    if (data_start > size_ || offset > size_ - data_start || row_bytes == 0 ||
        view.rows > (size_ - data_start - offset) / row_bytes) {
      return Broken(absl::StrCat("tensor '", name, "' ends behind the end of the file (truncated download?)"));
    }
    if (offset % alignment != 0) {
      return Broken(absl::StrCat("tensor '", name, "' at ", offset, " is not aligned to ", alignment));
    }
    view.data = data_ + data_start + offset;
    places.emplace_back(offset, name);
  }
  std::sort(places.begin(), places.end());
  for (size_t i = 1; i < places.size(); ++i) {
    const TensorView& before = tensors_[places[i - 1].second];
    if (places[i].first - places[i - 1].first < before.rows * before.row_bytes()) {
      return Broken(absl::StrCat("tensors '", places[i - 1].second, "' and '", places[i].second, "' overlap"));
    }
  }
  return absl::OkStatus();
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
  std::memcpy(&raw, data_ + offset, kTypeBytes[type]);
  switch (type) {
    case kInt8: return static_cast<int8_t>(raw);
    case kInt16: return static_cast<int16_t>(raw);
    case kInt32: return static_cast<int32_t>(raw);
    default: return static_cast<int64_t>(raw);
  }
}

absl::StatusOr<uint64_t> GgufFile::GetUint(const std::string& key) const {
  HGA_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (!IsInteger(value->type)) return Broken(absl::StrCat("metadata '", key, "' is not an integer"));
  const int64_t number = IntAt(value->type, value->offset);
  if (number < 0) return Broken(absl::StrCat("metadata '", key, "' is negative or too large"));
  return static_cast<uint64_t>(number);
}

absl::StatusOr<float> GgufFile::GetFloat(const std::string& key) const {
  HGA_ASSIGN_OR_RETURN(const Value* value, Find(key));
  if (value->type != kFloat32) return Broken(absl::StrCat("metadata '", key, "' is not a float"));
  float number;
  std::memcpy(&number, data_ + value->offset, sizeof(number));
  return number;
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
  if (value->type != kArray || !IsInteger(value->element_type)) {
    return Broken(absl::StrCat("metadata '", key, "' is not an array of integers"));
  }
  std::vector<int64_t> numbers(value->count);
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = IntAt(value->element_type, value->offset + i * kTypeBytes[value->element_type]);
  }
  return numbers;
}

absl::StatusOr<TensorView> GgufFile::Tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    return absl::NotFoundError(absl::StrCat("GGUF file ", path_, ": no tensor '", name, "'"));
  }
  return found->second;
}

}  // namespace hga
