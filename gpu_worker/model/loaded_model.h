// A model, ready to run: weights, tokenizer, chat template, identity.
#ifndef HGA_GPU_WORKER_MODEL_LOADED_MODEL_H_
#define HGA_GPU_WORKER_MODEL_LOADED_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/kv/ids.h"
#include "gpu_worker/model/chat_template.h"
#include "gpu_worker/model/tokenizer.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// Constant after LoadModel; thread-safe.
struct LoadedModel {
  std::shared_ptr<const void> files;  // keeps mapped what the weights are views into
  ModelWeights weights;
  std::unique_ptr<Tokenizer> tokenizer;
  // FAILED_PRECONDITION: the file's template is not one that is known.
  absl::StatusOr<ChatTemplate> chat_template = absl::UnknownError("not loaded");
  // Of configuration and weights (a sample of each tensor's bytes): the same model from two places has the same.
  ModelFingerprint fingerprint;
  uint64_t parameters = 0;
  double load_seconds = 0;
  // Most memory that the process has had resident, the mapped pages that were read included.
  uint64_t load_peak_bytes = 0;
};

// Told the share that is done, from 0 to 1, on the calling thread.
using LoadProgress = std::function<void(double done)>;

// path: a GGUF file, or a folder with config.json, tokenizer.json and safetensors files.
// chat_template: "" takes the file's own; else a name that FindChatStyle knows.
// NOT_FOUND: no such file. INVALID_ARGUMENT: not a sound model; says what is wrong.
absl::StatusOr<std::unique_ptr<LoadedModel>> LoadModel(const std::string& path, const std::string& chat_template = "",
                                                       const LoadProgress& progress = nullptr);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_LOADED_MODEL_H_
