#include "gpu_worker/model/byte_alphabet.h"

#include <array>

#include "absl/container/flat_hash_map.h"
#include "common/base/utf8.h"

namespace hga {
namespace {

bool Printable(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

// All code points in use are below U+0800: one or two bytes of UTF-8.
std::string Utf8(int code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

struct Alphabet {
  std::array<std::string, 256> character;
  absl::flat_hash_map<std::string, char> byte;

  Alphabet() {
    int next = 256;  // bytes that cannot be printed take the code points from here on
    for (int b = 0; b < 256; ++b) {
      character[b] = Utf8(Printable(b) ? b : next++);
      byte[character[b]] = static_cast<char>(b);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet* const alphabet = new Alphabet;
  return *alphabet;
}

}  // namespace

std::string ToByteAlphabet(uint8_t byte) { return TheAlphabet().character[byte]; }

std::string FromByteAlphabet(const std::string& text) {
  std::string bytes;
  for (size_t i = 0, length = 0; i < text.size(); i += length) {
    NextUtf8(absl::string_view(text).substr(i), &length);
    const std::string character = text.substr(i, length);
    const auto found = TheAlphabet().byte.find(character);
    if (found != TheAlphabet().byte.end()) {
      bytes.push_back(found->second);
    } else {
      bytes += character;
    }
  }
  return bytes;
}

}  // namespace hga
