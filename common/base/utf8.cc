#include "common/base/utf8.h"

#include <cstdint>

namespace hga {

Utf8Step NextUtf8(absl::string_view text, size_t* bytes) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = at(0);
  *bytes = 1;
  if (lead < 0x80) return Utf8Step::kCharacter;
  if (lead < 0xc2 || lead > 0xf4) return Utf8Step::kInvalid;
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // Only the second byte has bounds of its own: they keep out overlong forms, surrogates and what is too large.
  const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (size_t i = 1; i < length; ++i) {
    *bytes = i;
    if (i == text.size()) return Utf8Step::kIncomplete;
    if (at(i) < (i == 1 ? low : 0x80) || at(i) > (i == 1 ? high : 0xbf)) return Utf8Step::kInvalid;
  }
  *bytes = length;
  return Utf8Step::kCharacter;
}

size_t ValidUtf8Prefix(absl::string_view text) {
  size_t offset = 0, bytes = 0;
  while (offset < text.size() && NextUtf8(text.substr(offset), &bytes) == Utf8Step::kCharacter) offset += bytes;
  return offset;
}

}  // namespace hga
