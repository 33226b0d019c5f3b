// GPT-2's printable stand-ins for bytes: vocabularies are stored in them.
#ifndef HGA_GPU_WORKER_MODEL_BYTE_ALPHABET_H_
#define HGA_GPU_WORKER_MODEL_BYTE_ALPHABET_H_

#include <cstdint>
#include <string>

namespace hga {

// The character (UTF-8) that stands for a byte.
std::string ToByteAlphabet(uint8_t byte);
// Back to bytes; characters that stand for no byte are kept as they are.
std::string FromByteAlphabet(const std::string& text);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_BYTE_ALPHABET_H_
