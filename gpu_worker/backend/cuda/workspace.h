// Buffers for the activations of one step, of fixed sizes.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_WORKSPACE_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_WORKSPACE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/cuda/cuda_linear.h"
#include "gpu_worker/backend/cuda/device_memory.h"
#include "gpu_worker/model/config.h"

namespace hga {

// Rows whose logits are made at a time.
inline constexpr uint32_t kLogitRows = kGemvRows;

struct WorkspaceShape {
  ModelConfig config;
  uint32_t max_rows = 0;
  uint32_t part_states = 0;         // states behind those of the rows, for parts of a decoding row
  uint64_t rounded_weight_bytes = 0;
  uint32_t f8_cols = 0;  // most columns that are multiplied as FP8
  uint64_t gemm_bytes = 0;
};

// Pointers into one buffer. Floats that only steps of few rows use are there for so many rows alone.
struct Workspace {
  float *x, *normed;           // [rows][hidden]
  bf16* normed_bf16;           // [rows][hidden]
  float* qkv;                  // [rows][query_heads + 2 kv_heads][head_dim]
  float* cos_sin;              // [rows][rope_dims]
  uint32_t *positions, *take;  // [rows]
  float* q;                    // [rows][query_heads][head_dim]
  bf16* q_bf16;                // the same
  bf16* guessed_queries;       // [few rows][query_heads][head_dim]
  bf16* kv;                    // [kv_heads][2][rows of the step][head_dim]
  float *m, *l, *o;            // attention states
  float* log_sum_exp;          // [rows][query_heads]
  float* missed;               // [rows][query_heads]
  float *value_sums, *value_counts;  // [rows][kv_heads][head_dim], [rows][kv_heads]
  float* attended;             // [few rows][query_heads][head_dim]
  bf16* attended_bf16;         // [rows][query_heads][head_dim]
  float* projected;            // [rows][hidden]
  float* gate_up;              // [pairs][2][width]
  float* activated;            // [few pairs][width]
  bf16* activated_bf16;        // [pairs][width]
  float* logits;               // [kLogitRows][vocab_size]
  uint64_t* seen;                // [kLogitRows][ceil(vocab_size / 64)]
  float *penalties, *temperatures;  // [kLogitRows]
  uint64_t* masses;              // [kLogitRows][slices of the vocabulary]
  TokenLogit *top, *top_of_top;  // [kLogitRows][slices of the vocabulary][kMaxTopLogits], taking turns
  // With experts; pairs = rows * experts_per_token.
  float* router;      // [rows][experts]
  uint32_t* chosen;   // [pairs]
  float* shares;      // [pairs]
  uint32_t* order;    // [pairs]
  ExpertTile* tiles;
  uint32_t* tile_count;
  float* expert_out;  // [pairs][hidden]

  GemmScratch scratch;
  uint8_t* f8_probe;  // [kF8ProbeBytes], if there is scratch for FP8
  uint8_t* gemm;
  DeviceBuffer memory;
};

// As the allocator counts.
uint64_t WorkspaceBytes(const WorkspaceShape& shape);
// RESOURCE_EXHAUSTED.
absl::StatusOr<Workspace> MakeWorkspace(const WorkspaceShape& shape, DeviceMemory* memory);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_WORKSPACE_H_
