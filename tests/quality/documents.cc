#include "tests/quality/documents.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "nlohmann/json.hpp"

namespace hga {

using Json = nlohmann::ordered_json;

absl::StatusOr<std::string> ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  return text.str();
}

absl::StatusOr<std::vector<Document>> ReadCorpus(const std::string& manifest, const std::string& split) {
  HGA_ASSIGN_OR_RETURN(const std::string text, ReadText(manifest));
  const Json json = Json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains("documents") || !json["documents"].is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(manifest, ": no list 'documents'"));
  }
  const std::filesystem::path folder = std::filesystem::path(manifest).parent_path();
  std::vector<Document> documents;
  for (const Json& entry : json["documents"]) {
    Document d;
    const auto take = [&](const char* field, std::string* out) {
      if (entry.is_object() && entry.contains(field) && entry[field].is_string()) *out = entry[field];
    };
    take("name", &d.id);
    take("split", &d.split);
    take("kind", &d.kind);
    take("file", &d.path);
    if (d.id.empty() || d.split.empty() || d.path.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(manifest, ": document ", documents.size(), " ('", d.id, "') needs name, split and file"));
    }
    d.path = (folder / d.path).string();
    if (split.empty() || d.split == split) documents.push_back(d);
  }
  return documents;
}

Document SingleDocument(const std::string& path) {
  Document d;
  d.id = std::filesystem::path(path).filename().string();
  d.split = "single";
  d.path = path;
  return d;
}

}  // namespace hga
