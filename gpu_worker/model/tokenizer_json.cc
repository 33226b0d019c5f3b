#include "gpu_worker/model/tokenizer_json.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/json_file.h"
#include "gpu_worker/model/read_only_file.h"
#include "gpu_worker/model/tokenizer_config.h"
#include "gpu_worker/model/tokenizer_json_steps.h"

namespace hga {
namespace {

using nlohmann::json;

// The largest vocabularies in use have 262144 tokens, 35 MB and 2 million values.
constexpr size_t kMaxBytes = size_t{96} << 20, kMaxValues = size_t{8} << 20;
constexpr size_t kMaxIds = size_t{1} << 22;

class Reader {
 public:
  Reader(const json& root, const std::string& name) : root_(root, name) {}

  absl::StatusOr<TokenizerData> Read() {
    HGA_RETURN_IF_ERROR(ReadNormalizer(root_, &data_));
    HGA_RETURN_IF_ERROR(ReadPreTokenizer(root_, &data_));
    HGA_RETURN_IF_ERROR(ReadTokenDecoder(root_, &data_));
    HGA_RETURN_IF_ERROR(ReadModel());
    HGA_RETURN_IF_ERROR(ReadPostProcessor(root_, &data_));
    HGA_RETURN_IF_ERROR(ReadAdded());
    return std::move(data_);
  }

 private:
  absl::Status ReadModel() {
    HGA_ASSIGN_OR_RETURN(const json* value, root_.GetObject("model"));
    if (value == nullptr) return root_.WrongField("model", "an object");
    const JsonFields model(*value, root_.file(), "model.");
    // Files before 2021 do not name the type.
    HGA_ASSIGN_OR_RETURN(const std::string type, model.GetString("type", model.Has("merges") ? "BPE" : ""));
    if (type == "BPE") return ReadBpe(model);
    if (type == "Unigram") return ReadUnigram(model);
    return model.WrongField("type", "BPE or Unigram");
  }

  absl::Status ReadBpe(const JsonFields& model) {
    HGA_ASSIGN_OR_RETURN(const float dropout, model.GetFloat("dropout", 0));
    if (dropout != 0) return model.WrongField("dropout", "none: the same text must always give the same tokens");
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      HGA_ASSIGN_OR_RETURN(const std::string text, model.GetString(name, ""));
      if (!text.empty()) return model.WrongField(name, "none: it is not supported");
    }
    HGA_ASSIGN_OR_RETURN(data_.byte_fallback, model.GetBool("byte_fallback", false));
    HGA_ASSIGN_OR_RETURN(data_.fuse_unknown, model.GetBool("fuse_unk", false));
    HGA_ASSIGN_OR_RETURN(data_.ignore_merges, model.GetBool("ignore_merges", false));
    HGA_RETURN_IF_ERROR(ReadVocabulary(model));
    HGA_ASSIGN_OR_RETURN(const std::string unknown, model.GetString("unk_token", ""));
    if (!unknown.empty()) {
      const auto found = std::find(data_.tokens.begin(), data_.tokens.end(), unknown);
      if (found == data_.tokens.end()) return model.WrongField("unk_token", "a token of model.vocab");
      data_.unknown = static_cast<uint32_t>(found - data_.tokens.begin());
    }
    return ReadMerges(model);
  }

  absl::Status ReadVocabulary(const JsonFields& model) {
    HGA_ASSIGN_OR_RETURN(const json* vocab, model.GetObject("vocab"));
    if (vocab == nullptr) return model.WrongField("vocab", "an object");
    for (const auto& item : vocab->items()) {
      const std::string& token = item.key();
      const json& id = item.value();
      const auto wrong = [&](const std::string& what) {
        return model.Wrong(absl::StrCat("'model.vocab': token '", token, "' ", what));
      };
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= kMaxIds) {
        return wrong(absl::StrCat("has the id ", id.dump(), ", expected 0 to ", kMaxIds - 1));
      }
      const auto place = id.get<size_t>();
      if (place >= data_.tokens.size()) data_.tokens.resize(place + 1);
      if (!data_.tokens[place].empty()) {
        return wrong(absl::StrCat("has the id ", place, ", as '", data_.tokens[place], "' has"));
      }
      data_.tokens[place] = token;
    }
    return absl::OkStatus();
  }

  absl::Status ReadMerges(const JsonFields& model) {
    HGA_ASSIGN_OR_RETURN(const json* merges, model.GetArray("merges"));
    if (merges == nullptr) return model.WrongField("merges", "a list");
    data_.merges.reserve(merges->size());
    for (const json& merge : *merges) {
      const auto is_pair = [&] {
        return merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
      };
      if (is_pair()) {
        data_.merges.emplace_back(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
        continue;
      }
      const std::string text = merge.is_string() ? merge.get<std::string>() : "";
      const size_t blank = text.find(' ');
      if (blank == std::string::npos || text.find(' ', blank + 1) != std::string::npos) {
        return model.Wrong(absl::StrCat("'model.merges': entry ", data_.merges.size(),
                                        " is neither two tokens with a blank between them nor a list of two"));
      }
      data_.merges.emplace_back(text.substr(0, blank), text.substr(blank + 1));
    }
    return absl::OkStatus();
  }

  absl::Status ReadUnigram(const JsonFields& model) {
    if (data_.model == TokenizerData::Model::kByteBpe) {
      return model.WrongField("type", "BPE: a unigram model after ByteLevel is not supported");
    }
    data_.model = TokenizerData::Model::kUnigram;
    data_.fuse_unknown = true;
    HGA_ASSIGN_OR_RETURN(data_.byte_fallback, model.GetBool("byte_fallback", false));
    if (model.Has("unk_id")) {
      HGA_ASSIGN_OR_RETURN(data_.unknown, model.GetUint("unk_id"));
    }
    HGA_ASSIGN_OR_RETURN(const json* vocab, model.GetArray("vocab"));
    if (vocab == nullptr) return model.WrongField("vocab", "a list");
    for (const json& entry : *vocab) {
      if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
        return model.Wrong(absl::StrCat("'model.vocab': entry ", data_.tokens.size(), " is not [token, score]"));
      }
      data_.tokens.push_back(entry[0].get<std::string>());
      data_.scores.push_back(entry[1].get<double>());
    }
    return absl::OkStatus();
  }

  absl::Status ReadAdded() {
    HGA_ASSIGN_OR_RETURN(const json* added, root_.GetArray("added_tokens"));
    if (added == nullptr) return absl::OkStatus();
    for (const json& entry : *added) {
      const std::string where = absl::StrCat("added_tokens[", data_.added.size(), "]");
      if (!entry.is_object()) return root_.Wrong(absl::StrCat("'", where, "' is no object"));
      const JsonFields fields(entry, root_.file(), where + ".");
      HGA_ASSIGN_OR_RETURN(const uint32_t id, fields.GetUint("id"));
      HGA_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(fields, id));
      data_.added.push_back(std::move(token));
    }
    return absl::OkStatus();
  }

  const JsonFields root_;
  TokenizerData data_;
};

absl::StatusOr<TokenizerData> Parse(absl::string_view text, const std::string& name) {
  if (text.size() > kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat(name, " has ", text.size(), " bytes, expected at most ", kMaxBytes));
  }
  // A tree of small values takes 50 times the room of its text: counted before it is built.
  const auto values = std::count_if(text.begin(), text.end(), [](char c) { return c == ',' || c == '[' || c == '{'; });
  if (static_cast<size_t>(values) > kMaxValues) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has about ", values, " values, expected at most ", kMaxValues));
  }
  HGA_ASSIGN_OR_RETURN(const json root, ParseJsonObject(text, name));
  return Reader(root, name).Read();
}

}  // namespace

absl::StatusOr<TokenizerData> ParseTokenizerJson(absl::string_view text) { return Parse(text, "tokenizer.json"); }

absl::StatusOr<std::unique_ptr<Tokenizer>> ReadTokenizerJson(const std::string& folder) {
  const std::string path = folder + "/tokenizer.json";
  HGA_ASSIGN_OR_RETURN(const auto file, ReadOnlyFile::Open(path));
  HGA_ASSIGN_OR_RETURN(TokenizerData data, Parse(file->text(), path));
  HGA_RETURN_IF_ERROR(ReadTokenizerConfig(folder, &data));
  auto tokenizer = Tokenizer::Create(std::move(data));
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(), absl::StrCat(path, ": ", std::string(tokenizer.status().message())));
}

}  // namespace hga
