#include "tests/quality/results.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace hga {

using Json = nlohmann::ordered_json;

absl::StatusOr<Results> Results::Open(const std::string& path) {
  Results results;
  results.path_ = path;
  std::ifstream in(path, std::ios::binary);
  uintmax_t good = 0, number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const bool cut = in.eof();  // no newline
    Json json = cut ? Json(Json::value_t::discarded) : Json::parse(line, nullptr, false);
    if (cut) break;
    if (!json.is_object() || !json.contains("key") || !json["key"].is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ", line ", number, ": not a result; remove the line or name another file"));
    }
    good += line.size() + 1;
    results.keys_.insert(json["key"].get<std::string>());
    results.lines_.push_back(std::move(json));
  }
  in.close();
  std::error_code error;
  if (std::filesystem::exists(path, error)) std::filesystem::resize_file(path, good, error);
  if (error) return absl::UnavailableError(absl::StrCat(path, ": ", error.message()));
  results.out_.open(path, std::ios::binary | std::ios::app);
  if (!results.out_) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return results;
}

absl::Status Results::Append(const std::string& key, Json line) {
  line["key"] = key;
  out_ << line.dump() << "\n" << std::flush;
  if (!out_) return absl::UnavailableError(absl::StrCat("cannot write ", path_));
  keys_.insert(key);
  lines_.push_back(std::move(line));
  return absl::OkStatus();
}

Json ToJson(const LossBucket& b) {
  return {{"first", b.first},       {"queries", b.queries}, {"dense_nll", b.dense_nll}, {"nll", b.nll}, {"kl", b.kl},
          {"same_top", b.same_top}, {"keys", b.keys},       {"most_keys", b.most_keys}};
}

absl::StatusOr<LossBucket> BucketFromJson(const Json& json) {
  for (const char* field : {"first", "queries", "dense_nll", "nll", "kl", "same_top", "keys", "most_keys"}) {
    if (!json.is_object() || !json.contains(field) || !json[field].is_number()) {
      return absl::InvalidArgumentError(absl::StrCat("a bucket has no number '", field, "'"));
    }
  }
  LossBucket b;
  b.first = json["first"];
  b.queries = json["queries"];
  b.dense_nll = json["dense_nll"];
  b.nll = json["nll"];
  b.kl = json["kl"];
  b.same_top = json["same_top"];
  b.keys = json["keys"];
  b.most_keys = json["most_keys"];
  return b;
}

}  // namespace hga
