// UTF-8, checked strictly: no surrogates, no overlong forms, nothing above U+10FFFF.
#ifndef HGA_COMMON_BASE_UTF8_H_
#define HGA_COMMON_BASE_UTF8_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace hga {

enum class Utf8Step {
  kCharacter,   // a whole character of `bytes` bytes
  kIncomplete,  // the text ends inside a character
  kInvalid,     // `bytes` bytes (1 to 3) can begin no character
};

// Looks at the start of `text`, which must not be empty.
Utf8Step NextUtf8(absl::string_view text, size_t* bytes);

// Offset of the first byte that is not part of a whole valid character; text.size() if all is well.
size_t ValidUtf8Prefix(absl::string_view text);

}  // namespace hga

#endif  // HGA_COMMON_BASE_UTF8_H_
