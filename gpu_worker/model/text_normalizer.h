// The steps that a tokenizer takes over a whole text before it cuts it up.
#ifndef HGA_GPU_WORKER_MODEL_TEXT_NORMALIZER_H_
#define HGA_GPU_WORKER_MODEL_TEXT_NORMALIZER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "gpu_worker/model/tokenizer_data.h"

namespace hga {

// `text` must be valid UTF-8; the result is. RESOURCE_EXHAUSTED: it grows beyond what a text of this size may.
absl::StatusOr<std::string> NormalizeText(const std::vector<NormalizeStep>& steps, absl::string_view text);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TEXT_NORMALIZER_H_
