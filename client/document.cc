#include "client/document.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/kv/ids.h"

namespace hga {
namespace {

constexpr uintmax_t kMaxDocumentBytes = 32 << 20;  // half of the largest message

// Length of the UTF-8 character that starts at `i`; 0 if none does.
size_t Utf8Length(const std::string& text, size_t i) {
  const auto byte = [&](size_t at) -> uint8_t { return at < text.size() ? text[at] : 0; };
  const uint8_t lead = byte(i);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3 : lead >= 0xF0 && lead < 0xF5 ? 4 : 0;
  for (size_t k = 1; k < length; ++k) {
    if ((byte(i + k) & 0xC0) != 0x80) return 0;
  }
  const uint8_t second = byte(i + 1);
  const bool overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  const bool no_character = (lead == 0xED && second >= 0xA0) || (lead == 0xF4 && second >= 0x90);
  return overlong || no_character ? 0 : length;
}

}  // namespace

size_t FindInvalidUtf8(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = Utf8Length(text, i);
    if (length == 0) return i;
    i += length;
  }
  return std::string::npos;
}

absl::Status ValidateText(const std::string& what, const std::string& text) {
  if (absl::StripAsciiWhitespace(text).empty()) return absl::InvalidArgumentError(absl::StrCat(what, " is empty"));
  const size_t bad = FindInvalidUtf8(text);
  if (bad == std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is not UTF-8 text (byte ", bad, "); convert it first, e.g. with iconv -t UTF-8"));
}

absl::StatusOr<std::string> ReadDocument(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return absl::NotFoundError(absl::StrCat("file ", path, " does not exist"));
  if (std::filesystem::is_directory(status)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is a folder; name a text file"));
  }
  const uintmax_t size = std::filesystem::is_regular_file(status) ? std::filesystem::file_size(path, error) : 0;
  if (!error && size > kMaxDocumentBytes) {
    return absl::InvalidArgumentError(absl::StrCat("file ", path, " has ", size >> 20, " MiB; at most 32 MiB are taken"));
  }
  std::ifstream file(path, std::ios::binary);
  std::stringstream content;
  if (!file || (file.peek() != EOF && !(content << file.rdbuf()))) {
    return absl::InvalidArgumentError(absl::StrCat("file ", path, " cannot be read: ", std::strerror(errno)));
  }
  std::string text = content.str();
  HGA_RETURN_IF_ERROR(ValidateText(absl::StrCat("file ", path), text));
  return text;
}

std::string DocumentSession(const std::string& document) { return "doc-" + HashBytes(document).ToHex(); }

std::string DocumentThenQuestion(const std::string& document, const std::string& question) {
  return absl::StrCat(absl::StripTrailingAsciiWhitespace(document), "\n\n", question);
}

}  // namespace hga
