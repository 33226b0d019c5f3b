#include "gpu_worker/model/tokenizer_config.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/read_only_file.h"

namespace hga {
namespace {

using nlohmann::json;

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr size_t kMaxTemplateBytes = size_t{1} << 20;

void AddEnd(uint32_t id, TokenizerData* data) {
  if (std::find(data->ends.begin(), data->ends.end(), id) == data->ends.end()) data->ends.push_back(id);
}

absl::StatusOr<json> ReadOptional(const std::string& path) {
  auto value = ReadJsonFile(path, kMaxConfigBytes);
  if (absl::IsNotFound(value.status())) return json::object();
  return value;
}

// A token by its text: a string, or an object with its content. "": the field is missing.
absl::StatusOr<std::string> TokenText(const JsonFields& fields, const std::string& name) {
  if (!fields.Has(name)) return std::string();
  const auto text = fields.GetString(name, "");
  if (text.ok()) return *text;
  const auto object = fields.GetObject(name);
  if (!object.ok()) return fields.WrongField(name, "a string or an object with its content");
  return JsonFields(**object, fields.file(), name + ".").GetString("content", "");
}

absl::StatusOr<uint32_t> TokenId(const JsonFields& fields, const std::string& name, const TokenizerData& data) {
  HGA_ASSIGN_OR_RETURN(const std::string text, TokenText(fields, name));
  if (text.empty()) return TokenizerData::kNone;
  for (const AddedToken& token : data.added) {
    if (token.text == text) return token.id;
  }
  const auto found = std::find(data.tokens.begin(), data.tokens.end(), text);
  if (found == data.tokens.end()) return fields.WrongField(name, "a token that tokenizer.json has");
  return static_cast<uint32_t>(found - data.tokens.begin());
}

absl::Status ReadSpecialTokens(const JsonFields& fields, TokenizerData* data) {
  HGA_ASSIGN_OR_RETURN(const uint32_t bos, TokenId(fields, "bos_token", *data));
  HGA_ASSIGN_OR_RETURN(const uint32_t eos, TokenId(fields, "eos_token", *data));
  if (bos != TokenizerData::kNone) data->bos = bos;
  if (eos != TokenizerData::kNone) AddEnd(eos, data);
  return absl::OkStatus();
}

// eos_token_id: a number or a list of them.
absl::Status ReadEndIds(const JsonFields& fields, TokenizerData* data) {
  constexpr char kName[] = "eos_token_id";
  if (!fields.Has(kName)) return absl::OkStatus();
  const auto list = fields.GetArray(kName);
  if (!list.ok()) {
    HGA_ASSIGN_OR_RETURN(const uint32_t id, fields.GetUint(kName));
    AddEnd(id, data);
    return absl::OkStatus();
  }
  for (const json& id : **list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= TokenizerData::kNone) {
      return fields.WrongField(kName, "a token id or a list of them");
    }
    AddEnd(id.get<uint32_t>(), data);
  }
  return absl::OkStatus();
}

// Files from before tokenizer.json held all added tokens.
absl::Status ReadMissingAdded(const JsonFields& fields, TokenizerData* data) {
  HGA_ASSIGN_OR_RETURN(const json* entries, fields.GetObject("added_tokens_decoder"));
  if (entries == nullptr) return absl::OkStatus();
  for (const auto& [key, entry] : entries->items()) {
    const std::string where = absl::StrCat("added_tokens_decoder.", key);
    uint32_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || !entry.is_object()) {
      return fields.Wrong(absl::StrCat("'", where, "' is no token"));
    }
    HGA_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(JsonFields(entry, fields.file(), where + "."), id));
    const bool known = std::any_of(data->added.begin(), data->added.end(),
                                   [&](const AddedToken& other) { return other.id == id; });
    if (!known) data->added.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// One text, or several with names, of which "default" is the one.
absl::Status ReadTemplate(const JsonFields& fields, TokenizerData* data) {
  constexpr char kName[] = "chat_template";
  const auto list = fields.GetArray(kName);
  if (!list.ok() || *list == nullptr) {
    HGA_ASSIGN_OR_RETURN(data->chat_template, fields.GetString(kName, ""));
    return absl::OkStatus();
  }
  for (const json& entry : **list) {
    if (!entry.is_object()) return fields.WrongField(kName, "a text or a list of named texts");
    const JsonFields named(entry, fields.file(), "chat_template.");
    HGA_ASSIGN_OR_RETURN(const std::string name, named.GetString("name", ""));
    HGA_ASSIGN_OR_RETURN(const std::string text, named.GetString("template", ""));
    if (name == "default") data->chat_template = text;
  }
  return absl::OkStatus();
}

absl::Status ReadTemplateFile(const std::string& path, TokenizerData* data) {
  const auto file = ReadOnlyFile::Open(path);
  if (absl::IsNotFound(file.status())) return absl::OkStatus();
  HGA_RETURN_IF_ERROR(file.status());
  if ((*file)->size() > kMaxTemplateBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", (*file)->size(), " bytes, expected at most ", kMaxTemplateBytes));
  }
  data->chat_template = std::string((*file)->text());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AddedToken> ReadAddedToken(const JsonFields& fields, uint32_t id) {
  AddedToken token;
  token.id = id;
  HGA_ASSIGN_OR_RETURN(token.text, fields.GetString("content", ""));
  if (token.text.empty()) return fields.WrongField("content", "a text");
  HGA_ASSIGN_OR_RETURN(token.control, fields.GetBool("special", false));
  HGA_ASSIGN_OR_RETURN(token.normalized, fields.GetBool("normalized", !token.control));
  HGA_ASSIGN_OR_RETURN(token.lstrip, fields.GetBool("lstrip", false));
  HGA_ASSIGN_OR_RETURN(token.rstrip, fields.GetBool("rstrip", false));
  HGA_ASSIGN_OR_RETURN(const bool single_word, fields.GetBool("single_word", false));
  if (single_word) return fields.WrongField("single_word", "false: true is not supported");
  return token;
}

absl::Status ReadTokenizerConfig(const std::string& folder, TokenizerData* data) {
  // The first end token is the one that the model's makers put first for generation.
  for (const char* name : {"generation_config.json", "config.json"}) {
    const std::string path = absl::StrCat(folder, "/", name);
    HGA_ASSIGN_OR_RETURN(const json config, ReadOptional(path));
    if (data->ends.empty()) HGA_RETURN_IF_ERROR(ReadEndIds(JsonFields(config, path), data));
  }
  for (const char* name : {"special_tokens_map.json", "tokenizer_config.json"}) {
    const std::string path = absl::StrCat(folder, "/", name);
    HGA_ASSIGN_OR_RETURN(const json config, ReadOptional(path));
    const JsonFields fields(config, path);
    HGA_RETURN_IF_ERROR(ReadMissingAdded(fields, data));
    HGA_RETURN_IF_ERROR(ReadSpecialTokens(fields, data));
    HGA_ASSIGN_OR_RETURN(data->add_bos, fields.GetBool("add_bos_token", data->add_bos));
    if (fields.Has("chat_template")) HGA_RETURN_IF_ERROR(ReadTemplate(fields, data));
  }
  if (data->ends.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        folder, "/tokenizer_config.json: 'eos_token' is missing, and 'eos_token_id' in generation_config.json and ",
        "config.json: nothing says which token ends an answer"));
  }
  return ReadTemplateFile(folder + "/chat_template.jinja", data);
}

}  // namespace hga
