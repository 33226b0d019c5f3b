#include "gpu_worker/model/safetensors_header.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

using nlohmann::json;

constexpr size_t kMaxTensors = 1 << 18;  // the largest published checkpoints have 100,000
constexpr size_t kMaxNameBytes = 1024;
constexpr size_t kMaxDims = 8;

// Follows the format's fixed shape as the parser goes along, so that nothing is built that is not kept:
//   {"__metadata__": {key: text}, name: {"dtype": text, "shape": [n...], "data_offsets": [begin, end]}}
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  bool start_object(size_t) override {
    if (level_ == Level::kOutside) return Enter(Level::kTop);
    if (level_ == Level::kTop) return Enter(key_ == "__metadata__" ? Level::kMetadata : Level::kTensor);
    return Unexpected("an object");
  }
  bool end_object() override {
    if (level_ == Level::kTensor && !FinishTensor()) return false;
    level_ = level_ == Level::kTop ? Level::kOutside : Level::kTop;
    return true;
  }
  bool start_array(size_t) override {
    if (level_ != Level::kTensor || (key_ != "shape" && key_ != "data_offsets")) return Unexpected("an array");
    level_ = Level::kNumbers;
    numbers_.clear();
    return true;
  }
  bool end_array() override {
    level_ = Level::kTensor;
    if (key_ == "shape") {
      tensor_.shape = numbers_;
      return true;
    }
    if (numbers_.size() != 2) return Fail(absl::StrCat("has ", numbers_.size(), " data_offsets, expected 2"));
    tensor_.begin = numbers_[0];
    tensor_.end = numbers_[1];
    return true;
  }
  bool key(string_t& key) override {
    key_ = key;
    if (level_ == Level::kMetadata) return true;
    if (level_ == Level::kTensor) return SeeField();
    if (key.size() > kMaxNameBytes) return Stop(absl::StrCat("a tensor's name has ", key.size(), " bytes"));
    if (key == "__metadata__") return true;
    if (tensors_.size() == kMaxTensors) return Stop(absl::StrCat("lists more than ", kMaxTensors, " tensors"));
    tensor_ = StoredTensor();
    tensor_.name = key;
    seen_ = 0;
    return true;
  }
  bool string(string_t& text) override {
    if (level_ == Level::kMetadata) return true;
    if (level_ != Level::kTensor || key_ != "dtype") return Unexpected("a string");
    if (SafetensorsElementBytes(text) == 0) {
      return Fail(absl::StrCat("has the unknown dtype '", absl::CEscape(text.substr(0, 20)), "'"));
    }
    tensor_.dtype = text;
    return true;
  }
  bool number_unsigned(number_unsigned_t number) override {
    if (level_ != Level::kNumbers) return Unexpected("a number");
    if (numbers_.size() == kMaxDims) return Fail(absl::StrCat("has more than ", kMaxDims, " dimensions"));
    numbers_.push_back(number);
    return true;
  }
  bool number_integer(number_integer_t) override { return Unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return Unexpected("a number that is not whole"); }
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a truth value"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Stop(absl::StrCat("the header is not JSON from byte ", position, " on"));
  }

  const absl::Status& status() const { return status_; }
  std::vector<StoredTensor> Take() { return std::move(tensors_); }

 private:
  enum class Level { kOutside, kTop, kMetadata, kTensor, kNumbers };

  bool Enter(Level level) {
    level_ = level;
    return true;
  }
  bool Stop(const std::string& what) {
    status_.Update(absl::InvalidArgumentError(what));
    return false;
  }
  bool Fail(const std::string& what) { return Stop(absl::StrCat("tensor '", absl::CEscape(tensor_.name), "' ", what)); }
  bool Unexpected(const std::string& what) {
    if (level_ == Level::kOutside) return Stop(absl::StrCat("the header is ", what, ", expected an object"));
    if (level_ == Level::kTop) {
      return Stop(absl::StrCat("'", absl::CEscape(key_), "' is ", what, ", expected an object"));
    }
    if (level_ == Level::kMetadata) return Stop(absl::StrCat("__metadata__ holds ", what, ", expected strings"));
    return Fail(absl::StrCat("has ", what, " in '", absl::CEscape(key_), "'"));
  }
  bool SeeField() {
    const unsigned bit = key_ == "dtype" ? 1 : key_ == "shape" ? 2 : key_ == "data_offsets" ? 4 : 0;
    if (bit == 0) return Fail(absl::StrCat("has the unknown field '", absl::CEscape(key_.substr(0, 40)), "'"));
    if ((seen_ & bit) != 0) return Fail(absl::StrCat("has '", key_, "' twice"));
    seen_ |= bit;
    return true;
  }
  bool FinishTensor() {
    if (seen_ != 7) return Fail("lacks one of dtype, shape, data_offsets");
    tensors_.push_back(std::move(tensor_));
    return true;
  }

  Level level_ = Level::kOutside;
  std::string key_;
  StoredTensor tensor_;
  unsigned seen_ = 0;
  std::vector<uint64_t> numbers_;
  std::vector<StoredTensor> tensors_;
  absl::Status status_;
};

std::string Quoted(const StoredTensor& tensor) { return absl::StrCat("tensor '", absl::CEscape(tensor.name), "'"); }

absl::Status CheckTensor(const StoredTensor& t, uint64_t data_start, uint64_t data_bytes) {
  const uint64_t element = SafetensorsElementBytes(t.dtype);
  uint64_t bytes = element;
  for (uint64_t size : t.shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(t), " has a shape whose product overflows"));
    }
  }
  if (t.begin > t.end || t.end - t.begin != bytes) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(t), " lies at ", t.begin, " to ", t.end,
                                                   ", but its shape asks for ", bytes, " bytes"));
  }
  if (t.end > data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(t), " ends at ", t.end, " of ", data_bytes,
                                                   " bytes of data (truncated download?)"));
  }
  if ((data_start + t.begin) % element != 0) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(t), " at ", data_start + t.begin, " is not aligned to its ",
                                                   element,
                                                   "-byte elements; save it again with a current safetensors"));
  }
  return absl::OkStatus();
}

absl::Status CheckNames(const std::vector<StoredTensor>& tensors) {
  absl::flat_hash_set<absl::string_view> names;
  for (const StoredTensor& t : tensors) {
    if (!names.insert(t.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(t), " stands there twice"));
    }
  }
  return absl::OkStatus();
}

// `tensors` sorted by place.
absl::Status CheckCoverage(const std::vector<StoredTensor>& tensors, uint64_t data_bytes) {
  uint64_t end = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].begin < end) {
      return absl::InvalidArgumentError(absl::StrCat(Quoted(tensors[i - 1]), " and ", Quoted(tensors[i]), " overlap"));
    }
    if (tensors[i].begin > end) {
      return absl::InvalidArgumentError(absl::StrCat("nothing lies between ", end, " and ", tensors[i].begin,
                                                     ", where ", Quoted(tensors[i]), " begins"));
    }
    end = tensors[i].end;
  }
  if (end == data_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the tensors end at ", end, " of ", data_bytes, " bytes of data"));
}

}  // namespace

uint32_t SafetensorsElementBytes(absl::string_view dtype) {
  static constexpr struct {
    absl::string_view dtype;
    uint32_t bytes;
  } kTypes[] = {
      {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}, {"F64", 8}, {"BOOL", 1},
      {"U8", 1},  {"I8", 1},  {"U16", 2},  {"I16", 2},     {"U32", 4},     {"I32", 4},     {"U64", 8}, {"I64", 8},
  };
  for (const auto& type : kTypes) {
    if (type.dtype == dtype) return type.bytes;
  }
  return 0;
}

absl::StatusOr<std::vector<StoredTensor>> ParseSafetensorsHeader(absl::string_view text, uint64_t data_start,
                                                                 uint64_t data_bytes) {
  HeaderReader reader;
  const bool parsed = json::sax_parse(text.begin(), text.end(), &reader);
  if (!reader.status().ok()) return reader.status();
  if (!parsed) return absl::InvalidArgumentError("the header is not JSON");
  std::vector<StoredTensor> tensors = reader.Take();
  for (const StoredTensor& t : tensors) HGA_RETURN_IF_ERROR(CheckTensor(t, data_start, data_bytes));
  HGA_RETURN_IF_ERROR(CheckNames(tensors));
  std::sort(tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
    return std::make_pair(a.begin, a.end) < std::make_pair(b.begin, b.end);
  });
  HGA_RETURN_IF_ERROR(CheckCoverage(tensors, data_bytes));
  return tensors;
}

}  // namespace hga
