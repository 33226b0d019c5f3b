#include "gpu_worker/model/tokenizer_json_steps.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/pre_tokenizer.h"

namespace hga {
namespace {

using nlohmann::json;
using StepKind = NormalizeStep::Kind;
using Prepend = SplitStep::Prepend;

// One step of a pipeline.
struct Part {
  std::string type;
  JsonFields fields;
};

// The steps of a field, those of a Sequence (whose list has the name `list`) in its place. None if it is null.
absl::StatusOr<std::vector<Part>> ReadParts(const JsonFields& fields, const std::string& name,
                                            const std::string& list, const std::string& prefix = "") {
  std::vector<Part> parts;
  HGA_ASSIGN_OR_RETURN(const json* value, fields.GetObject(name));
  if (value == nullptr) return parts;
  std::vector<std::pair<const json*, std::string>> open = {{value, absl::StrCat(prefix, name)}};
  while (!open.empty()) {
    const auto [step, where] = open.back();
    open.pop_back();
    if (!step->is_object()) return fields.Wrong(absl::StrCat("'", where, "' is no object"));
    JsonFields inner(*step, fields.file(), absl::StrCat(where, "."));
    HGA_ASSIGN_OR_RETURN(std::string type, inner.GetString("type", ""));
    if (type != "Sequence") {
      parts.push_back({std::move(type), std::move(inner)});
      continue;
    }
    HGA_ASSIGN_OR_RETURN(const json* steps, inner.GetArray(list));
    if (steps == nullptr) return inner.WrongField(list, "a list");
    for (size_t i = steps->size(); i > 0; --i) {
      open.emplace_back(&(*steps)[i - 1], absl::StrCat(where, ".", list, "[", i - 1, "]"));
    }
  }
  return parts;
}

absl::Status Unknown(const Part& part, const std::string& known) {
  return part.fields.WrongField("type", absl::StrCat("one of those that are known: ", known, " and Sequence"));
}

// A pattern that is plain text. NOT_FOUND: it is a regular expression.
absl::StatusOr<std::string> PlainPattern(const JsonFields& fields) {
  HGA_ASSIGN_OR_RETURN(const json* pattern, fields.GetObject("pattern"));
  if (pattern == nullptr) return fields.WrongField("pattern", "{\"String\": ...} or {\"Regex\": ...}");
  if (pattern->contains("Regex")) return absl::NotFoundError("");
  HGA_ASSIGN_OR_RETURN(std::string text, JsonFields(*pattern, fields.file(), "pattern.").GetString("String", ""));
  if (text.empty()) return fields.WrongField("pattern", "{\"String\": ...} with a text that is not empty");
  return text;
}

// A regular expression that finds the text.
std::string Quoted(const std::string& text) {
  std::string pattern;
  for (char c : text) {
    if (absl::ascii_ispunct(c)) pattern.push_back('\\');
    pattern.push_back(c);
  }
  return pattern;
}

absl::Status ReadSplit(const JsonFields& fields, SplitStep* step) {
  auto plain = PlainPattern(fields);
  if (plain.ok()) {
    step->pattern = Quoted(*plain);
  } else if (absl::IsNotFound(plain.status())) {
    HGA_ASSIGN_OR_RETURN(const json* pattern, fields.GetObject("pattern"));
    HGA_ASSIGN_OR_RETURN(step->pattern, JsonFields(*pattern, fields.file(), "pattern.").GetString("Regex", ""));
  } else {
    return plain.status();
  }
  HGA_ASSIGN_OR_RETURN(const std::string behavior, fields.GetString("behavior", ""));
  if (behavior != "Isolated" && behavior != "Removed") return fields.WrongField("behavior", "Isolated or Removed");
  step->kind = behavior == "Isolated" ? SplitStep::Kind::kIsolate : SplitStep::Kind::kRemove;
  HGA_ASSIGN_OR_RETURN(step->invert, fields.GetBool("invert", false));
  return absl::OkStatus();
}

// Whether a blank is put first. Files before 2024 have add_prefix_space in place of prepend_scheme.
absl::StatusOr<Prepend> ReadMetaspace(const JsonFields& fields) {
  HGA_ASSIGN_OR_RETURN(const std::string replacement, fields.GetString("replacement", kMetaspace));
  if (replacement != kMetaspace) return fields.WrongField("replacement", "U+2581");
  HGA_ASSIGN_OR_RETURN(const bool prefix, fields.GetBool("add_prefix_space", true));
  HGA_ASSIGN_OR_RETURN(const std::string scheme, fields.GetString("prepend_scheme", prefix ? "always" : "never"));
  if (scheme == "always") return Prepend::kAlways;
  if (scheme == "first") return Prepend::kFirst;
  if (scheme == "never") return Prepend::kNever;
  return fields.WrongField("prepend_scheme", "always, first or never");
}

SplitStep Isolate(std::string pattern) {
  SplitStep step;
  step.kind = SplitStep::Kind::kIsolate;
  step.pattern = std::move(pattern);
  return step;
}

absl::Status ReadByteLevel(const JsonFields& fields, TokenizerData* data) {
  data->model = TokenizerData::Model::kByteBpe;
  HGA_ASSIGN_OR_RETURN(const bool prefix, fields.GetBool("add_prefix_space", true));
  HGA_ASSIGN_OR_RETURN(const bool split, fields.GetBool("use_regex", true));
  if (prefix) {
    SplitStep step;
    step.kind = SplitStep::Kind::kPrefixSpace;
    data->split.push_back(step);
  }
  if (split) data->split.push_back(Isolate(kGpt2Split));
  return absl::OkStatus();
}

absl::Status ReadPreTokenizerPart(const Part& part, TokenizerData* data) {
  SplitStep step;
  if (data->model == TokenizerData::Model::kByteBpe) {
    return part.fields.WrongField("type", "nothing after ByteLevel");
  }
  if (part.type == "ByteLevel") return ReadByteLevel(part.fields, data);
  if (part.type == "Split") {
    HGA_RETURN_IF_ERROR(ReadSplit(part.fields, &step));
  } else if (part.type == "Digits") {
    HGA_ASSIGN_OR_RETURN(const bool each, part.fields.GetBool("individual_digits", false));
    step = Isolate(each ? R"(\p{N})" : R"(\p{N}+)");
  } else if (part.type == "Metaspace") {
    step.kind = SplitStep::Kind::kMetaspace;
    HGA_ASSIGN_OR_RETURN(step.prepend, ReadMetaspace(part.fields));
    HGA_ASSIGN_OR_RETURN(step.split, part.fields.GetBool("split", true));
  } else {
    return Unknown(part, "ByteLevel, Split, Digits, Metaspace");
  }
  data->split.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status ReadNormalizerPart(const Part& part, TokenizerData* data) {
  static const auto* const forms = new std::vector<std::pair<std::string, StepKind>>{
      {"NFC", StepKind::kNfc}, {"NFD", StepKind::kNfd}, {"NFKC", StepKind::kNfkc}, {"NFKD", StepKind::kNfkd}};
  NormalizeStep step;
  for (const auto& [name, kind] : *forms) {
    if (part.type != name) continue;
    step.kind = kind;
    data->normalize.push_back(step);
    return absl::OkStatus();
  }
  if (part.type == "Prepend") {
    step.kind = StepKind::kPrepend;
    HGA_ASSIGN_OR_RETURN(step.to, part.fields.GetString("prepend", ""));
  } else if (part.type == "Replace") {
    step.kind = StepKind::kReplace;
    auto from = PlainPattern(part.fields);
    if (absl::IsNotFound(from.status())) return part.fields.WrongField("pattern", "{\"String\": ...}");
    HGA_RETURN_IF_ERROR(from.status());
    step.from = *std::move(from);
    HGA_ASSIGN_OR_RETURN(step.to, part.fields.GetString("content", ""));
  } else {
    return Unknown(part, "NFC, NFD, NFKC, NFKD, Prepend, Replace");
  }
  data->normalize.push_back(std::move(step));
  return absl::OkStatus();
}

// Special tokens after the text (</s>) are no part of a prompt, which is to be continued.
absl::Status ReadTemplate(const JsonFields& fields, TokenizerData* data) {
  HGA_ASSIGN_OR_RETURN(const json* single, fields.GetArray("single"));
  HGA_ASSIGN_OR_RETURN(const json* specials, fields.GetObject("special_tokens"));
  if (single == nullptr || specials == nullptr) return fields.WrongField("single", "a list beside special_tokens");
  const auto text = std::find_if(single->begin(), single->end(),
                                 [](const json& item) { return item.is_object() && item.contains("Sequence"); });
  if (text == single->end()) return fields.WrongField("single", "a list with a Sequence");
  if (text == single->begin()) return absl::OkStatus();
  try {
    const std::string name = single->front().at("SpecialToken").at("id").get<std::string>();
    const json& ids = specials->at(name).at("ids");
    if (text - single->begin() == 1 && ids.is_array() && ids.size() == 1 && ids[0].is_number_unsigned()) {
      data->bos = static_cast<uint32_t>(std::min<uint64_t>(ids[0].get<uint64_t>(), TokenizerData::kNone - 1));
      data->add_bos = true;
      return absl::OkStatus();
    }
  } catch (const json::exception&) {
  }
  return fields.WrongField("single", "at most one special token with one id before the text");
}

absl::Status ReadDecoderPart(const Part& part, TokenizerData* data) {
  const JsonFields& fields = part.fields;
  if (part.type == "Metaspace") {
    HGA_ASSIGN_OR_RETURN(const Prepend prepend, ReadMetaspace(fields));
    data->metaspace_decoder = true;
    data->strip_leading_space = prepend != Prepend::kNever;
    return absl::OkStatus();
  }
  if (part.type == "Replace") {
    const auto from = PlainPattern(fields);
    HGA_ASSIGN_OR_RETURN(const std::string to, fields.GetString("content", ""));
    if (!from.ok() || *from != kMetaspace || to != " ") {
      return fields.WrongField("pattern", "{\"String\": U+2581}, replaced by a blank");
    }
    data->metaspace_decoder = true;
    return absl::OkStatus();
  }
  if (part.type == "Strip") {
    HGA_ASSIGN_OR_RETURN(const std::string content, fields.GetString("content", ""));
    HGA_ASSIGN_OR_RETURN(const uint32_t start, fields.GetUint("start", 0));
    HGA_ASSIGN_OR_RETURN(const uint32_t stop, fields.GetUint("stop", 0));
    if (content != " " || start != 1 || stop != 0) return fields.WrongField("start", "1 blank, and none at the end");
    data->strip_leading_space = true;
    return absl::OkStatus();
  }
  // How bytes and pieces become text is the same for all.
  if (part.type == "ByteFallback" || part.type == "Fuse") return absl::OkStatus();
  return Unknown(part, "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip");
}

}  // namespace

absl::Status ReadNormalizer(const JsonFields& root, TokenizerData* data) {
  HGA_ASSIGN_OR_RETURN(const auto parts, ReadParts(root, "normalizer", "normalizers"));
  for (const Part& part : parts) HGA_RETURN_IF_ERROR(ReadNormalizerPart(part, data));
  return absl::OkStatus();
}

absl::Status ReadPreTokenizer(const JsonFields& root, TokenizerData* data) {
  HGA_ASSIGN_OR_RETURN(const auto parts, ReadParts(root, "pre_tokenizer", "pretokenizers"));
  data->model = TokenizerData::Model::kBpe;
  for (const Part& part : parts) HGA_RETURN_IF_ERROR(ReadPreTokenizerPart(part, data));
  return absl::OkStatus();
}

absl::Status ReadPostProcessor(const JsonFields& root, TokenizerData* data) {
  HGA_ASSIGN_OR_RETURN(const auto parts, ReadParts(root, "post_processor", "processors"));
  for (const Part& part : parts) {
    if (part.type == "ByteLevel") continue;  // it only changes offsets
    if (part.type != "TemplateProcessing") return Unknown(part, "ByteLevel, TemplateProcessing");
    HGA_RETURN_IF_ERROR(ReadTemplate(part.fields, data));
  }
  return absl::OkStatus();
}

absl::Status ReadTokenDecoder(const JsonFields& root, TokenizerData* data) {
  HGA_ASSIGN_OR_RETURN(const auto parts, ReadParts(root, "decoder", "decoders"));
  const bool bytes = data->model == TokenizerData::Model::kByteBpe;
  if (parts.empty()) return root.WrongField("decoder", "ByteLevel, Metaspace or a Sequence");
  for (const Part& part : parts) {
    if ((part.type == "ByteLevel") != bytes) {
      return part.fields.WrongField("type", bytes ? "ByteLevel, as the pre-tokenizer is"
                                                  : "no ByteLevel, as the pre-tokenizer is none");
    }
    if (!bytes) HGA_RETURN_IF_ERROR(ReadDecoderPart(part, data));
  }
  return absl::OkStatus();
}

}  // namespace hga
