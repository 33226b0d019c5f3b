// What runs the model on a device: a handful of coarse calls per layer. Implementations: reference/ (plain loops,
// double accumulators, the oracle), cpu/ (oneDNN and Highway), cuda/ (a GPU). The engine owns one backend; step thread
// only.
//
//   Begin; for each layer: PreAttention, Attend (any number of times), PostAttention; then Logits
#ifndef HGA_GPU_WORKER_BACKEND_BACKEND_H_
#define HGA_GPU_WORKER_BACKEND_BACKEND_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/kv/bf16.h"
#include "common/kv/geometry.h"
#include "common/kv/ids.h"
#include "gpu_worker/backend/token_logit.h"
#include "gpu_worker/model/weights.h"

namespace hga {

// One token of one sequence in this step. Rows of a sequence are consecutive and ascend by position.
struct BatchRow {
  uint32_t token_id = 0;
  uint32_t position = 0;
  bool want_logits = false;
};

// Where a row's K and V go in one layer: a block (reserved slot) and the token's place in its chunk.
struct KvRow {
  void* block = nullptr;  // [KvGeometry::block_bytes]
  uint32_t token_in_chunk = 0;
};

// Some consecutive tokens of one KV head, K and V contiguous: at most one group.
struct KvRun {
  // [tokens] rows as of KvPlace, KvGeometry::row_stride apart.
  const void* k = nullptr;
  const void* v = nullptr;
  uint32_t position = 0;    // of the first token
  uint16_t tokens = 0;      // 1 to group_tokens
  uint16_t first_row = 0;   // rows of the query block before this one do not see the run
};

// Rows [first_row, first_row + rows) of the batch attend `runs[kv_head]`. Row r sees key j of a run if
// r - first_row >= run.first_row and run.position + j <= position of row r.
struct QueryBlock {
  uint32_t first_row = 0;
  uint32_t rows = 0;
  std::vector<std::vector<KvRun>> runs;  // [kv_heads]
  // Names of the sequence's chunks, from the first on, whose K/V does not change any more: a backend may keep copies.
  // Must stay until Attend returns.
  absl::Span<const ChunkHash> finished;
};

struct AttendPlan {
  std::vector<QueryBlock> blocks;
  // Keeps sums of the values for Backend::AddResidual: true in all calls of a layer that has it.
  bool sum_values = false;
};

// What the best of a row are picked after, and what is wanted of the others.
struct TopRow {
  // Logits of the tokens whose bits are set in `seen` [ceil(vocab_size / 64)] are divided by it if positive, else
  // multiplied by it. 1: none are.
  float penalty = 1;
  absl::Span<const uint64_t> seen;
  // Above 0: the row's mass is wanted, the sum of LogitMass (top_logits.h) at this temperature. 0: it is not.
  float temperature = 0;
};

// Of K/V, in bytes, since the backend was made: read from the device's own memory, and brought there.
struct DeviceTierUse {
  uint64_t hit_bytes = 0, fetched_bytes = 0;
};

// Selections for answers' tokens, since the backend was made: on the device, and by the router while some are made
// there.
struct RouteMirrorUse {
  uint64_t on_device = 0, by_router = 0;
};

// Summaries of `chunks` in order, up to the first that is not there. Blocks; thread-safe.
using SummarySource = std::function<absl::Status(
    absl::Span<const ChunkHash> chunks,
    const std::function<void(const ChunkHash& chunk, const std::string& method, const std::string& data)>& sink)>;

class RouteClient;
struct SummaryMethod;

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;
  // Most rows a step may have.
  virtual uint32_t max_rows() const = 0;
  virtual uint32_t vocab_size() const = 0;

  // Embeds the rows. INVALID_ARGUMENT for a token id outside the vocabulary or too many rows.
  virtual absl::Status Begin(absl::Span<const BatchRow> rows) = 0;
  // Norm, QKV, RoPE. Writes each row's K and V to kv_rows[row]; starts empty partials for the layer. K and V may
  // get there as late as PostAttention returns; attention sees them before.
  virtual absl::Status PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) = 0;
  // Queries of this layer after RoPE as bf16 for the router, [rows][query_heads][head_dim]; valid until PostAttention.
  // Attention itself uses the unrounded queries. A device is waited for, unless LogSumExp has done so in this layer:
  // ask after that, or after an Attend that has something to do meanwhile.
  virtual const bf16* queries() = 0;
  // Exact attention of the plan's rows over the plan's runs, merged into the layer's partials (o, log-sum-exp).
  virtual absl::Status Attend(const AttendPlan& plan) = 0;
  // What queries() will likely be in `layer`, the one after the layer at hand, as a hint for Prefetch: its projection
  // of what the rows hold now. nullptr: cannot tell. Valid until PostAttention.
  virtual const bf16* GuessQueries(uint32_t layer) { return nullptr; }
  // A hint: a later layer of this step will likely attend these runs. May bring them near the device; changes no bit of
  // any result. The K/V must stay readable until the next PreAttention has returned.
  virtual absl::Status Prefetch(uint32_t layer, const AttendPlan& plan) { return absl::OkStatus(); }
  // Whether Prefetch does anything.
  virtual bool can_prefetch() const { return false; }
  // Of what the rows have attended in this layer so far: log of the sum of exp(q.k / sqrt(head_dim)), natural,
  // [rows][query_heads]; -infinity where it is nothing. Valid until the next call of Attend or PreAttention.
  virtual const float* LogSumExp() = 0;
  // What a row did not attend, as one key more for each query head, whose value is the mean of the values of its KV
  // head that the row attended in this layer. missed: [rows][query_heads] log of the sum of exp over the keys it stands
  // for; -infinity: none. After the last Attend of the layer, whose plans have sum_values.
  virtual absl::Status AddResidual(const float* missed) = 0;
  // Output projection, residual, norm, MLP, residual.
  virtual absl::Status PostAttention(uint32_t layer) = 0;
  // Final norm and output projection for the rows with want_logits, in order: [n][vocab_size].
  virtual absl::Status Logits(std::vector<float>* logits) = 0;
  // Instead of Logits, of the same rows: the `count` largest, largest first, equal ones by id: [n][min(count, vocab)],
  // from the same bits. count: 1 to kMaxTopLogits. Logits that are infinite or not a number come before all others.
  // rows: [n], or empty: as they are. masses: [n], 0 where none is wanted. Logits may still be called after it.
  virtual absl::Status TopLogits(uint32_t count, absl::Span<const TopRow> rows, std::vector<TokenLogit>* top,
                                 std::vector<uint64_t>* masses);

  // A client that selects on the device what it can, as `router` would, and asks `router` for the rest; `router` itself
  // where the backend cannot. method: of the summaries, ready for use, valid for ever, the same at every call. source:
  // summaries that the router has. The backend must outlive the client. Any thread.
  virtual std::unique_ptr<RouteClient> MirrorRouter(std::unique_ptr<RouteClient> router, const SummaryMethod* method,
                                                    SummarySource source);
  virtual RouteMirrorUse route_mirror_use() const { return {}; }

  // The caller rewrites what PreAttention writes to kv_rows: from now on it is there when that returns, and attended
  // from there alone.
  virtual void KvIsRewritten() {}
  // Nothing where attention reads the host's memory in place.
  virtual DeviceTierUse device_tier_use() const { return {}; }
  // Memory that blocks will lie in, until UnregisterKv, which waits for what reads it: a device may then read it in
  // place. Any thread, while steps run. Optional; an error means only that it is copied.
  virtual absl::Status RegisterKv(const void* memory, size_t bytes) { return absl::OkStatus(); }
  virtual void UnregisterKv(const void* memory) {}
};

inline constexpr uint64_t kSummariesAsRoomAllows = UINT64_MAX;

struct BackendOptions {
  // Worker threads; 0: one per core.
  int threads = 0;
  // Most rows of a step, prefill and decode alike. 256: GEMM is at its best from there on, activations stay small.
  uint32_t max_rows = 256;
  // cpu: prompts are multiplied with a copy of quantised weights in bf16, of two bytes a weight, where the CPU
  // multiplies that.
  bool bf16_copy = false;
  // cuda: most device memory that is handed out, in bytes; 0: what is free at the start but for a reserve.
  uint64_t device_memory_limit = 0;
  // cuda: of it, for copies of K/V; UINT64_MAX: what the rest leaves.
  uint64_t device_tier_bytes = UINT64_MAX;
  // cuda: of it, for the router's summaries (MirrorRouter); 0: none; kSummariesAsRoomAllows: of what the rest leaves.
  uint64_t device_summary_bytes = 0;
  // How keys are summed up for the router (common/kv/summary.h): by name, enough to plan the memory of.
  std::string summary_method = "sketch";
  // cuda: answers' tokens read K/V where it lies in the host's memory, where that can be registered; false: by way of
  // the device's copies.
  bool device_in_place = true;
  // cuda: work of decode steps that is the same in each is recorded once and given to the device as a whole.
  bool device_graphs = true;
  // cuda: prompts are multiplied with FP8 weights as they are, activations rounded to FP8 in groups of 128, where the
  // device has it; else such weights are made bf16.
  bool device_f8_gemm = true;
};

// kind: "reference", "cpu" or "cuda". The weights must outlive the backend. "cuda" falls back to "cpu", with a warning,
// where there is no device; FAILED_PRECONDITION: built without it. RESOURCE_EXHAUSTED: the device has too little
// memory.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const std::string& kind, const ModelWeights& weights,
                                                       const KvGeometry& geometry, const BackendOptions& options);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_BACKEND_H_
