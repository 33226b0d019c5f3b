// Text that the user hands in.
#ifndef HGA_CLIENT_DOCUMENT_H_
#define HGA_CLIENT_DOCUMENT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hga {

// The file's bytes. NOT_FOUND: no such file; INVALID_ARGUMENT: a folder, unreadable, empty, not UTF-8, over
// 32 MiB.
absl::StatusOr<std::string> ReadDocument(const std::string& path);

// INVALID_ARGUMENT, with `what` as its name, where `text` is empty or no UTF-8.
absl::Status ValidateText(const std::string& what, const std::string& text);

// "doc-<hash of the bytes>": equal documents share a session, whatever the file is called.
std::string DocumentSession(const std::string& document);

// The document comes first, so that another question about it finds its K/V in the store.
std::string DocumentThenQuestion(const std::string& document, const std::string& question);

}  // namespace hga

#endif  // HGA_CLIENT_DOCUMENT_H_
