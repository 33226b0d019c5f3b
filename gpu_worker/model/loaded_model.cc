#include "gpu_worker/model/loaded_model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/fingerprint.h"
#include "gpu_worker/model/gguf.h"
#include "gpu_worker/model/gguf_model.h"
#include "gpu_worker/model/gguf_tokenizer.h"
#include "gpu_worker/model/tensor_list.h"

namespace hga {
namespace {

constexpr char kChatMl[] = "<|im_start|>{{ role }}\n{{ content }}<|im_end|>\n";

absl::Status Wrong(const GgufFile& file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("model ", file.path(), ": ", what));
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadGguf(const std::string& path, const std::string& chat_template) {
  HGA_ASSIGN_OR_RETURN(std::shared_ptr<const GgufFile> file, GgufFile::Open(path));
  auto model = std::make_unique<LoadedModel>();
  model->files = file;
  HGA_ASSIGN_OR_RETURN(model->weights, ReadGgufModel(*file));
  HGA_ASSIGN_OR_RETURN(model->tokenizer, ReadGgufTokenizer(*file));
  if (model->tokenizer->vocab_size() != model->weights.config.vocab_size) {
    return Wrong(*file, absl::StrCat("the tokenizer has ", model->tokenizer->vocab_size(), " tokens, the embedding ",
                                     model->weights.config.vocab_size, " rows"));
  }
  const std::string text =
      chat_template == "chatml" ? kChatMl : file->GetString("tokenizer.chat_template").value_or("");
  model->chat_template = ChatTemplate::Create(text, model->tokenizer.get());
  return model;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const std::string& path, const std::string& chat_template) {
  if (!chat_template.empty() && chat_template != "chatml") {
    return absl::InvalidArgumentError(absl::StrCat("chat template '", chat_template, "' is not known; chatml is"));
  }
  HGA_ASSIGN_OR_RETURN(auto model, LoadGguf(path, chat_template));
  model->fingerprint = Fingerprint(model->weights);
  model->parameters = CountParameters(model->weights);
  return model;
}

}  // namespace hga
