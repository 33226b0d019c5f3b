// Writes safetensors checkpoints with made-up weights, for tests and benchmarks.
#ifndef HGA_GPU_WORKER_MODEL_CHECKPOINT_WRITER_H_
#define HGA_GPU_WORKER_MODEL_CHECKPOINT_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hga {

enum class TensorFill {
  kHole,     // zeros that take no room on the disk
  kRandom,   // of both signs and a magnitude of about 1 / sqrt(columns)
  kOne,
  kScale,    // what tiles of kRandom FP8 are multiplied with: 1 / (1.5 sqrt(columns))
};

struct TensorToWrite {
  std::string name;
  std::string dtype;  // F32, F16, BF16 or F8_E4M3
  std::vector<uint64_t> shape;
  TensorFill fill = TensorFill::kRandom;
  uint64_t columns = 0;  // of the matrix that a kScale belongs to
};

// Writes model.safetensors, or shards of at most `shard_bytes` (at least one tensor each) and their index.
// INVALID_ARGUMENT: an unknown dtype. UNAVAILABLE: the disk refuses.
absl::Status WriteSafetensors(const std::string& folder, const std::vector<TensorToWrite>& tensors, uint32_t seed,
                              uint64_t shard_bytes = UINT64_MAX);

// Header and length prefix of one file, without the data.
absl::StatusOr<std::string> SafetensorsHeader(const std::vector<TensorToWrite>& tensors);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_CHECKPOINT_WRITER_H_
