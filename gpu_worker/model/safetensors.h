// A safetensors checkpoint: one file, or shards and their index; memory-mapped. Nothing in it is believed.
#ifndef HGA_GPU_WORKER_MODEL_SAFETENSORS_H_
#define HGA_GPU_WORKER_MODEL_SAFETENSORS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/model/read_only_file.h"
#include "gpu_worker/model/safetensors_header.h"

namespace hga {

// Constant after Open; thread-safe. What it points into stays mapped as long as it lives.
class SafetensorsCheckpoint {
 public:
  struct Tensor {
    std::string dtype;            // "BF16"
    std::vector<uint64_t> shape;  // outermost first
    const uint8_t* data = nullptr;
    uint64_t bytes = 0;
    const std::string* file = nullptr;  // that holds it, for messages
  };

  // `folder` holds model.safetensors, or model.safetensors.index.json and the shards that it names. Reads the headers
  // only. NOT_FOUND names the file that is missing, INVALID_ARGUMENT the file, the tensor and what was expected.
  static absl::StatusOr<std::unique_ptr<SafetensorsCheckpoint>> Open(const std::string& folder);

  // nullptr: there is none of that name.
  const Tensor* Find(const std::string& name) const;
  const absl::flat_hash_map<std::string, Tensor>& tensors() const { return tensors_; }
  const std::string& folder() const { return folder_; }
  size_t file_count() const { return files_.size(); }
  uint64_t file_bytes() const;

 private:
  explicit SafetensorsCheckpoint(std::string folder) : folder_(std::move(folder)) {}
  absl::Status AddFile(const std::string& path);
  absl::Status AddShards(const std::string& index_path);

  const std::string folder_;
  std::vector<std::unique_ptr<ReadOnlyFile>> files_;
  absl::flat_hash_map<std::string, Tensor> tensors_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_SAFETENSORS_H_
