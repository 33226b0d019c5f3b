// Steps of a backend at a given depth: K/V of made-up content in the host's memory, selections that drift.
#ifndef HGA_TESTS_BENCH_CUDA_STEPS_H_
#define HGA_TESTS_BENCH_CUDA_STEPS_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"

namespace hga {

// Host memory for the K/V of a context, as the arena has it: a block for each chunk and layer.
class BenchArena {
 public:
  BenchArena() = default;
  ~BenchArena();
  BenchArena(const BenchArena&) = delete;
  BenchArena& operator=(const BenchArena&) = delete;

  // The context's chunks lie in memory for `held_tokens`, again and again where that is less. RESOURCE_EXHAUSTED: the
  // host has not that much to spare.
  absl::Status Make(const KvGeometry& geometry, uint64_t held_tokens);
  void* Block(uint32_t chunk, uint32_t layer) const;
  const void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  KvGeometry geometry_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
  uint32_t chunks_ = 0;
};

struct StepOptions {
  uint32_t selected_keys = 0;     // for each row, KV head and layer
  double drift = 0.2;             // share of the selection that is another in the next step
  uint32_t window_tokens = 256;
  bool dense = false;             // attends everything instead
};

// Where a step's time went, as the host saw it, in seconds. The device is waited for in compute (it works off what the
// layer before gave it, behind the launch of the window's attention), log_sum_exp and logits.
struct StepTimes {
  double total = 0, attend_always = 0, compute = 0, log_sum_exp = 0, attend_selected = 0, post_attention = 0,
         logits = 0;
  void Add(const StepTimes& other);
};

// All must outlive it.
class BenchSteps {
 public:
  BenchSteps(Backend* backend, const KvGeometry& geometry, const BenchArena* arena, const StepOptions& options);

  // `rows` consecutive tokens from `position` on, within the arena.
  absl::StatusOr<StepTimes> Run(uint32_t position, uint32_t rows);

 private:
  struct Picked {
    uint32_t first, tokens;
  };
  void Drift(uint32_t layer, uint32_t kv_head, uint32_t before);
  void AddRun(uint32_t layer, uint32_t kv_head, uint32_t first, uint32_t tokens, QueryBlock* block) const;
  AttendPlan Always(uint32_t layer, uint32_t position, uint32_t rows) const;
  AttendPlan Selected(uint32_t layer, uint32_t position, uint32_t rows);
  QueryBlock BlockOf(uint32_t position, uint32_t first, uint32_t rows, uint32_t step_position) const;

  Backend* const backend_;
  const KvGeometry geometry_;
  const BenchArena* const arena_;
  const StepOptions options_;
  std::mt19937 random_{5};
  std::vector<std::vector<Picked>> picked_;  // [layer][kv_head]
  std::vector<ChunkHash> names_;
};

}  // namespace hga

#endif  // HGA_TESTS_BENCH_CUDA_STEPS_H_
