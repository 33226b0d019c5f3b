#include "gpu_worker/model/loaded_model.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/check_finite.h"
#include "gpu_worker/model/fingerprint.h"
#include "gpu_worker/model/gguf.h"
#include "gpu_worker/model/gguf_model.h"
#include "gpu_worker/model/gguf_tokenizer.h"
#include "gpu_worker/model/hf_model.h"
#include "gpu_worker/model/tensor_list.h"
#include "gpu_worker/model/tokenizer_json.h"

namespace hga {
namespace {

struct Parts {
  std::shared_ptr<const void> files;
  ModelWeights weights;
  std::unique_ptr<Tokenizer> tokenizer;
  std::string template_text;
};

absl::StatusOr<Parts> ReadGguf(const std::string& path) {
  if (absl::EndsWith(path, ".safetensors") || absl::EndsWith(path, ".json")) {
    return absl::InvalidArgumentError(
        absl::StrCat("model ", path, ": name the folder that holds it, or a GGUF file"));
  }
  HGA_ASSIGN_OR_RETURN(std::shared_ptr<const GgufFile> file, GgufFile::Open(path));
  Parts parts;
  HGA_ASSIGN_OR_RETURN(parts.weights, ReadGgufModel(*file));
  HGA_ASSIGN_OR_RETURN(parts.tokenizer, ReadGgufTokenizer(*file));
  if (parts.tokenizer->vocab_size() != parts.weights.config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("model ", path, ": the tokenizer has ",
                                                   parts.tokenizer->vocab_size(), " tokens, the embedding ",
                                                   parts.weights.config.vocab_size, " rows"));
  }
  parts.template_text = file->GetString("tokenizer.chat_template").value_or("");
  parts.files = std::move(file);
  return parts;
}

absl::StatusOr<Parts> ReadFolder(const std::string& folder) {
  HGA_ASSIGN_OR_RETURN(std::shared_ptr<HfModel> model, ReadHfModel(folder));
  Parts parts;
  parts.weights = std::move(model->weights);
  HGA_ASSIGN_OR_RETURN(parts.tokenizer, ReadTokenizerJson(folder));
  // Embeddings are often padded to a round number of rows.
  if (parts.tokenizer->vocab_size() > parts.weights.config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("model ", folder, ": tokenizer.json has ",
                                                   parts.tokenizer->vocab_size(),
                                                   " tokens, but config.json's vocab_size is ",
                                                   parts.weights.config.vocab_size, "; are they of the same model?"));
  }
  parts.template_text = parts.tokenizer->chat_template();
  parts.files = std::move(model);
  return parts;
}

// 0 where the kernel does not tell.
uint64_t PeakResidentBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (absl::StartsWith(line, "VmHWM:")) return std::strtoull(line.c_str() + 6, nullptr, 10) * 1024;
  }
  return 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const std::string& path, const std::string& chat_template,
                                                       const LoadProgress& progress) {
  ChatStyle style;
  if (!chat_template.empty()) {
    HGA_ASSIGN_OR_RETURN(style, FindChatStyle(chat_template));
  }
  const auto start = std::chrono::steady_clock::now();
  std::error_code ignored;
  auto parts = std::filesystem::is_directory(path, ignored) ? ReadFolder(path) : ReadGguf(path);
  if (!parts.ok()) return parts.status();
  auto model = std::make_unique<LoadedModel>();
  model->files = std::move(parts->files);
  model->weights = std::move(parts->weights);
  model->tokenizer = std::move(parts->tokenizer);
  const Tokenizer* tokenizer = model->tokenizer.get();
  model->chat_template = chat_template.empty() ? ChatTemplate::Create(parts->template_text, tokenizer)
                                               : ChatTemplate::Create(std::move(style), tokenizer);
  model->fingerprint = Fingerprint(model->weights, progress);
  if (absl::Status status = CheckFinite(model->weights); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("model ", path, ": ", status.message()));
  }
  model->parameters = CountParameters(model->weights);
  model->load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  model->load_peak_bytes = PeakResidentBytes();
  return model;
}

}  // namespace hga
