// GGUF v2/v3 files, memory-mapped. Nothing in the file is believed: counts and offsets are checked against its size
// before anything is allocated or read, and no list of the file may be longer than any real model's.
#ifndef HGA_GPU_WORKER_MODEL_GGUF_H_
#define HGA_GPU_WORKER_MODEL_GGUF_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gpu_worker/model/read_only_file.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// Constant after Open. Views into it (tensors, strings) live as long as it does. Thread-safe.
class GgufFile {
 public:
  // NOT_FOUND: no such file. INVALID_ARGUMENT: not a sound GGUF file; the message names the file and what is wrong.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  // The same of a file's bytes, which must outlive it; `path` is for messages only.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Parse(const std::string& path, absl::Span<const uint8_t> bytes);

  const std::string& path() const { return path_; }
  size_t file_bytes() const { return size_; }

  // Typed metadata; NOT_FOUND if the key is missing, INVALID_ARGUMENT if it has another type.
  absl::StatusOr<uint64_t> GetUint(const std::string& key) const;  // any integer type that is not negative
  absl::StatusOr<float> GetFloat(const std::string& key) const;  // f32 or f64
  absl::StatusOr<std::string> GetString(const std::string& key) const;
  absl::StatusOr<std::vector<std::string>> GetStrings(const std::string& key) const;
  absl::StatusOr<std::vector<int64_t>> GetInts(const std::string& key) const;
  absl::StatusOr<std::vector<float>> GetFloats(const std::string& key) const;
  bool Has(const std::string& key) const { return values_.contains(key); }

  // Matrix [rows][cols] or vector (rows = 1); of a tensor [n][rows][cols], the n matrices one below the other.
  // NOT_FOUND names the tensor.
  absl::StatusOr<TensorView> Tensor(const std::string& name) const;
  // The matrices of a tensor [n][rows][cols], as the experts of a layer stand there; of any other tensor, itself.
  absl::StatusOr<std::vector<TensorView>> Matrices(const std::string& name) const;
  bool HasTensor(const std::string& name) const { return tensors_.contains(name); }
  // In the file's order.
  const std::vector<std::string>& tensor_names() const { return tensor_names_; }

 private:
  struct Value {
    uint32_t type;
    uint32_t element_type;  // of an array
    uint64_t count;         // 1 for a scalar
    size_t offset;          // of the first element in the file
  };
  struct PlacedTensor {
    TensorView view;
    uint32_t matrices;  // of view.rows / matrices rows each
    uint64_t offset;    // from the start of the tensors' data
  };

  GgufFile() = default;
  // gguf_parse.cc
  class Cursor;
  absl::Status ParseHeader();
  absl::Status ParseValue(Cursor* cursor, const std::string& key);
  absl::Status ParseTensor(Cursor* cursor, const std::string& name);
  absl::Status CheckSplit() const;
  absl::StatusOr<uint64_t> Alignment() const;
  absl::Status PlaceTensors(size_t alignment, size_t data_start);

  absl::Status Broken(const std::string& what) const;
  absl::StatusOr<const Value*> Find(const std::string& key) const;
  int64_t IntAt(uint32_t type, size_t offset) const;
  float FloatAt(uint32_t type, size_t offset) const;

  // Constant after Open.
  std::unique_ptr<ReadOnlyFile> mapped_;  // null: somebody else's bytes
  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  absl::flat_hash_map<std::string, Value> values_;
  absl::flat_hash_map<std::string, PlacedTensor> tensors_;
  std::vector<std::string> tensor_names_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_GGUF_H_
