// Texts to measure on.
#ifndef HGA_TESTS_QUALITY_DOCUMENTS_H_
#define HGA_TESTS_QUALITY_DOCUMENTS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hga {

struct Document {
  std::string id;
  std::string split;  // "dev": to choose methods by; "test": to report
  std::string kind;   // "text" or "code"; may be empty
  std::string path;
};

// The documents of a corpus.json, {"documents": [{"name", "split", "kind", "file"}]}, files relative to it. split: only
// these; empty: all. INVALID_ARGUMENT names the document that lacks something, NOT_FOUND the file.
absl::StatusOr<std::vector<Document>> ReadCorpus(const std::string& manifest, const std::string& split);
// A single text file as a document.
Document SingleDocument(const std::string& path);

absl::StatusOr<std::string> ReadText(const std::string& path);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_DOCUMENTS_H_
