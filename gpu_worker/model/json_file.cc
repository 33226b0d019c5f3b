#include "gpu_worker/model/json_file.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/read_only_file.h"

namespace hga {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 16;
constexpr size_t kMaxShownBytes = 80;

// Before a tree is built: what nests deeper than any configuration does may exhaust the stack of what walks it.
bool NestsTooDeeply(absl::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

std::string Shown(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kMaxShownBytes) text = text.substr(0, kMaxShownBytes) + "...";
  return text;
}

}  // namespace

absl::StatusOr<json> ReadJsonFile(const std::string& path, size_t max_bytes) {
  HGA_ASSIGN_OR_RETURN(const auto file, ReadOnlyFile::Open(path));
  if (file->size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", file->size(), " bytes, expected at most ", max_bytes));
  }
  return ParseJsonObject(file->text(), path);
}

absl::StatusOr<json> ParseJsonObject(absl::string_view text, const std::string& name) {
  if (NestsTooDeeply(text)) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": nested more than ", kMaxDepth, " deep"));
  }
  json value = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": is not JSON (truncated download?)"));
  }
  if (!value.is_object()) return absl::InvalidArgumentError(absl::StrCat(name, ": expected a JSON object"));
  return value;
}

const json* JsonFields::Find(const std::string& name) const {
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

absl::Status JsonFields::Wrong(const std::string& what) const {
  return absl::InvalidArgumentError(absl::StrCat(file_, ": ", what));
}

absl::Status JsonFields::WrongField(const std::string& name, const std::string& expected) const {
  const json* value = Find(name);
  return Wrong(absl::StrCat("'", prefix_, name, "' is ", value == nullptr ? "missing" : Shown(*value), ", expected ",
                            expected));
}

absl::StatusOr<uint32_t> JsonFields::GetUint(const std::string& name) const {
  const json* value = Find(name);
  if (value == nullptr || !value->is_number_unsigned() || value->get<uint64_t>() > UINT32_MAX) {
    return WrongField(name, "a whole number of at most 32 bits");
  }
  return value->get<uint32_t>();
}

absl::StatusOr<uint32_t> JsonFields::GetUint(const std::string& name, uint32_t fallback) const {
  if (!Has(name)) return fallback;
  return GetUint(name);
}

absl::StatusOr<float> JsonFields::GetFloat(const std::string& name) const {
  const json* value = Find(name);
  const double number = value != nullptr && value->is_number() ? value->get<double>() : std::nan("");
  if (!(std::fabs(number) <= std::numeric_limits<float>::max())) return WrongField(name, "a number");
  return static_cast<float>(number);
}

absl::StatusOr<float> JsonFields::GetFloat(const std::string& name, float fallback) const {
  if (!Has(name)) return fallback;
  return GetFloat(name);
}

absl::StatusOr<bool> JsonFields::GetBool(const std::string& name, bool fallback) const {
  const json* value = Find(name);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return WrongField(name, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonFields::GetString(const std::string& name, const std::string& fallback) const {
  const json* value = Find(name);
  if (value == nullptr) return fallback;
  if (!value->is_string()) return WrongField(name, "a string");
  return value->get<std::string>();
}

absl::StatusOr<const json*> JsonFields::GetObject(const std::string& name) const {
  const json* value = Find(name);
  if (value != nullptr && !value->is_object()) return WrongField(name, "an object");
  return value;
}

absl::StatusOr<const json*> JsonFields::GetArray(const std::string& name) const {
  const json* value = Find(name);
  if (value != nullptr && !value->is_array()) return WrongField(name, "an array");
  return value;
}

}  // namespace hga
