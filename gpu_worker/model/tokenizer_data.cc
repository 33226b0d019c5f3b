#include "gpu_worker/model/tokenizer_data.h"

namespace hga {
namespace {

constexpr char kDigit[] = R"(\p{N})";
constexpr char kLlama3[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

SplitStep Isolate(const char* pattern) {
  SplitStep step;
  step.kind = SplitStep::Kind::kIsolate;
  step.pattern = pattern;
  return step;
}

}  // namespace

std::optional<TokenizerFamily> FindTokenizerFamily(const std::string& name) {
  TokenizerFamily family;
  if (name == "smollm") {
    family.split = {Isolate(kDigit), Isolate(kGpt2Split)};
  } else if (name == "gpt-2" || name == "default") {
    family.split = {Isolate(kGpt2Split)};
  } else if (name == "llama-bpe" || name == "llama3" || name == "llama-v3") {
    family.split = {Isolate(kLlama3)};
    family.ignore_merges = true;
    family.add_bos = true;
  } else if (name == "qwen2" || name == "deepseek-r1-qwen") {
    family.split = {Isolate(kQwen2)};
    family.nfc = true;
  } else {
    return std::nullopt;
  }
  return family;
}

std::string TokenizerFamilyNames() {
  return "smollm, gpt-2, default, llama-bpe (llama3, llama-v3), qwen2 and deepseek-r1-qwen";
}

}  // namespace hga
