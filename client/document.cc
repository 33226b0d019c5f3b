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
#include "common/base/utf8.h"
#include "common/kv/ids.h"

namespace hga {
namespace {

constexpr uintmax_t kMaxDocumentBytes = 32 << 20;  // half of the largest message

}  // namespace

absl::Status ValidateText(const std::string& what, const std::string& text) {
  if (absl::StripAsciiWhitespace(text).empty())
    return absl::InvalidArgumentError(absl::StrCat(what, " is empty"));
  const size_t bad = ValidUtf8Prefix(text);
  if (bad == text.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is not UTF-8 text (byte ", bad, "); convert it first, e.g. with iconv -t UTF-8"));
}

absl::StatusOr<std::string> ReadDocument(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status))
    return absl::NotFoundError(absl::StrCat("file ", path, " does not exist"));
  if (std::filesystem::is_directory(status)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is a folder; name a text file"));
  }
  const uintmax_t size =
      std::filesystem::is_regular_file(status) ? std::filesystem::file_size(path, error) : 0;
  if (!error && size > kMaxDocumentBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("file ", path, " has ", size >> 20, " MiB; at most 32 MiB are taken"));
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
