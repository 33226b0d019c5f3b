// GPT-2's printable stand-ins for bytes: vocabularies are stored in them.
#ifndef HGA_GPU_WORKER_MODEL_BYTE_ALPHABET_H_
#define HGA_GPU_WORKER_MODEL_BYTE_ALPHABET_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace hga {

// The character (UTF-8) that stands for a byte.
std::string ToByteAlphabet(uint8_t byte);
// Back to bytes; false if a character stands for no byte.
bool FromByteAlphabet(absl::string_view text, std::string* bytes);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_BYTE_ALPHABET_H_
