#include "gpu_worker/model/byte_alphabet.h"

#include <array>

namespace hga {
namespace {

constexpr int kCodes = 256 + 68;  // code points in use; 68 bytes cannot be printed

bool Printable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

struct Alphabet {
  std::array<int, 256> code;
  std::array<int, kCodes> byte;  // -1: stands for none

  Alphabet() {
    byte.fill(-1);
    int next = 256;  // bytes that cannot be printed take the code points from here on
    for (int b = 0; b < 256; ++b) {
      code[b] = Printable(b) ? b : next++;
      byte[code[b]] = b;
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet* const alphabet = new Alphabet;
  return *alphabet;
}

}  // namespace

std::string ToByteAlphabet(uint8_t byte) {
  const int code = TheAlphabet().code[byte];
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

bool FromByteAlphabet(absl::string_view text, std::string* bytes) {
  bytes->clear();
  for (size_t i = 0; i < text.size(); ++i) {
    int code = static_cast<uint8_t>(text[i]);
    if (code >= 0x80) {  // one or two bytes of UTF-8: all code points in use are below U+0800
      if (code < 0xc2 || code > 0xdf || i + 1 == text.size()) return false;
      const int second = static_cast<uint8_t>(text[++i]);
      if ((second & 0xc0) != 0x80) return false;
      code = (code & 0x1f) << 6 | (second & 0x3f);
    }
    const int byte = code < kCodes ? TheAlphabet().byte[code] : -1;
    if (byte < 0) return false;
    bytes->push_back(static_cast<char>(byte));
  }
  return true;
}

}  // namespace hga
