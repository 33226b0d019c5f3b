// Runs one sequence through a backend, attending densely: for tests that compare logits and K/V.
#ifndef HGA_GPU_WORKER_BACKEND_SEQUENCE_RUNNER_H_
#define HGA_GPU_WORKER_BACKEND_SEQUENCE_RUNNER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "gpu_worker/backend/backend.h"

namespace hga {

// Owns the backend and the sequence's K/V; a step that fails is a failure of the test. One thread.
class SequenceRunner {
 public:
  // kind: as CreateTestBackend; "_int8" behind it: with blocks of int8. The weights must outlive the runner.
  SequenceRunner(const std::string& kind, const ModelWeights& weights, int threads = 2);

  // Forgets the sequence; the next step begins another.
  void Restart();

  // Appends tokens in one step, the dense attention given in `parts` Attend calls. Rows before `hide_before_row` do not
  // see the runs of group `hide_run`. Returns the logits of every row, [tokens][vocab_size].
  std::vector<float> Step(const std::vector<uint32_t>& tokens, int parts = 1, int hide_run = -1,
                          uint32_t hide_before_row = 0);

  // From now on each row of a step has a residual of this log-sum-exp in every layer and query head.
  void AddResidual(float missed) { missed_ = missed; }

  // Of the last step, [layers][tokens][query_heads][head_dim].
  const std::vector<float>& queries() const { return queries_; }
  // What Backend::LogSumExp said of it once everything was attended, [layers][tokens][query_heads].
  const std::vector<float>& log_sum_exp() const { return log_sum_exp_; }
  // All K/V rows written so far, K and V elements taking turns: [tokens][layers][kv_heads][head_dim][2].
  std::vector<float> KvRows() const;

 private:
  AttendPlan Plan(uint32_t layer, uint32_t first, size_t rows, int part, int parts, int hide_run,
                  uint32_t hide_before_row) const;
  KvRun Run(uint32_t layer, uint32_t head, uint32_t group, uint32_t end) const;

  KvGeometry g_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::vector<std::vector<uint8_t>>> blocks_;  // [chunk][layer]
  std::vector<ChunkHash> names_;                        // [chunk], made up, others after each restart
  uint32_t restarts_ = 0;
  std::vector<float> queries_, log_sum_exp_;
  uint32_t length_ = 0;
  std::optional<float> missed_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_SEQUENCE_RUNNER_H_
