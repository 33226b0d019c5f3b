// Small JSON files beside a checkpoint's weights: config.json, model.safetensors.index.json.
#ifndef HGA_GPU_WORKER_MODEL_JSON_FILE_H_
#define HGA_GPU_WORKER_MODEL_JSON_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace hga {

// One object, read whole. NOT_FOUND: no such file. INVALID_ARGUMENT: larger than `max_bytes`, nested too deeply, or no
// JSON object; the message names the file.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, size_t max_bytes);
// `name` stands for the file in messages.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, const std::string& name);

// Typed fields of one object. A field that is null counts as missing. Errors are INVALID_ARGUMENT and name the file,
// the field, what it holds and what was expected. The object must outlive it.
class JsonFields {
 public:
  // `prefix` stands before field names in messages: "rope_scaling.".
  JsonFields(const nlohmann::json& object, std::string file, std::string prefix = "")
      : object_(object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  bool Has(const std::string& name) const { return Find(name) != nullptr; }
  // Without `fallback` the field must be there.
  absl::StatusOr<uint32_t> GetUint(const std::string& name) const;
  absl::StatusOr<uint32_t> GetUint(const std::string& name, uint32_t fallback) const;
  absl::StatusOr<float> GetFloat(const std::string& name) const;
  absl::StatusOr<float> GetFloat(const std::string& name, float fallback) const;
  absl::StatusOr<bool> GetBool(const std::string& name, bool fallback) const;
  absl::StatusOr<std::string> GetString(const std::string& name, const std::string& fallback) const;
  // nullptr where it is missing.
  absl::StatusOr<const nlohmann::json*> GetObject(const std::string& name) const;
  absl::StatusOr<const nlohmann::json*> GetArray(const std::string& name) const;

  absl::Status Wrong(const std::string& what) const;
  absl::Status WrongField(const std::string& name, const std::string& expected) const;
  const std::string& file() const { return file_; }

 private:
  const nlohmann::json* Find(const std::string& name) const;

  const nlohmann::json& object_;
  const std::string file_;
  const std::string prefix_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_JSON_FILE_H_
