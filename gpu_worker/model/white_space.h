// White space as Unicode has it.
#ifndef HGA_GPU_WORKER_MODEL_WHITE_SPACE_H_
#define HGA_GPU_WORKER_MODEL_WHITE_SPACE_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace hga {

// Bytes of white space that the text begins, or ends, with.
size_t SpaceAtStart(absl::string_view text);
size_t SpaceAtEnd(absl::string_view text);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_WHITE_SPACE_H_
