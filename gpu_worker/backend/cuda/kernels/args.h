// Arguments of the kernels: plain numbers and pointers into device memory. Float matrices are row-major.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ARGS_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ARGS_H_

#include <cstddef>
#include <cstdint>

#include "common/kv/bf16.h"
#include "gpu_worker/backend/token_logit.h"

namespace hga {

// Rows that GEMV takes at a time.
inline constexpr uint32_t kGemvRows = 8;
// Outputs that a warp of the GEMV adds up at a time, and warps of its block.
inline constexpr uint32_t kGemvOutputs = 4, kGemvWarps = 4, kGemvThreads = 32 * kGemvWarps;
// Tile of TileGemm, and threads of its block.
inline constexpr uint32_t kGemmTileRows = 32, kGemmTileOutputs = 64, kGemmTileCols = 128, kGemmThreads = 128;
// Queries of a block of AttendFew, its threads, the keys that they find at a time, and those that a warp has at hand.
inline constexpr uint32_t kFewQueries = 8, kFewThreads = 128, kFewKeys = kFewThreads, kFewAtOnce = 4;
// The same of AttendMany; heads must be a multiple of 16 elements and no longer than kManyHeadDim.
inline constexpr uint32_t kManyQueries = 64, kManyKeys = 64, kManyThreads = 128, kManyHeadDim = 128;

enum class MatrixType : uint32_t { kBf16, kF8E4M3 };

// A weight matrix, or a stack of them, one for each expert.
struct MatrixPart {
  const void* data = nullptr;     // [experts][outputs][cols]
  const float* scales = nullptr;  // kF8E4M3: [experts][ceil(outputs / 128)][ceil(cols / 128)]
  MatrixType type = MatrixType::kBf16;
  uint32_t outputs = 0;
};

// One to three matrices over the same input, outputs side by side.
struct MatrixParts {
  MatrixPart part[3];
  uint32_t count = 0, outputs = 0, cols = 0;
};

// out = x / rms(x) * scale. Either of the outputs may be nullptr. A block for each row.
struct RmsNormArgs {
  const float* x;        // [..][width]
  const float* scale;    // [width]
  const uint32_t* take;  // [rows]: which row of x; nullptr: the same
  float* out;            // [rows][width]
  bf16* out_bf16;        // [rows][width]
  uint32_t width;
  float epsilon;
};

// x += y
struct AddArgs {
  float* x;
  const float* y;
  uint64_t count;
};

// out = silu(gate) * up. Either of the outputs may be nullptr.
struct SwiGluArgs {
  const float* gate_up;  // [rows][2][width]
  float* out;            // [rows][width]
  bf16* out_bf16;        // [rows][width]
  uint32_t rows, width;
};

// Bias, norm of each query and key head, RoPE, and empty attention states and sums of values. A warp for each head of a
// row.
struct FinishHeadsArgs {
  const float* qkv;      // [rows][query_heads + 2 kv_heads][head_dim]
  const float* bias;     // [query_heads + 2 kv_heads][head_dim]; nullptr: none
  const float* q_norm;   // [head_dim]; nullptr: none
  const float* k_norm;   // [head_dim]; nullptr: none
  const float* cos_sin;  // [rows][2][rope_dims / 2]
  float* q;              // [rows][query_heads][head_dim]
  bf16* q_bf16;          // the same
  bf16* kv;              // [kv_heads][2][rows][head_dim]: keys, values; so that consecutive rows are a run
  float *m, *l, *o;      // states, see AttendFewArgs
  float *sums, *counts;  // see SumValuesArgs
  uint32_t rows, query_heads, kv_heads, head_dim, rope_dims;
  uint32_t adjacent;  // pairs are (2i, 2i+1), else halves
  uint32_t only_queries;  // nothing is written but q_bf16
  uint32_t int8;          // keys and values are rounded to what int8 holds, as the host rounds them
  float epsilon;
};

// y = x W^T in float, or y + x W^T, for few rows: W is read where it lies.
struct GemvArgs {
  MatrixParts w;
  const float* x;             // [rows / share][cols]
  float* y;                   // [rows][outputs]
  const uint32_t* expert_of;  // [rows]; nullptr: there is one matrix. With it a block takes one row, else kGemvRows
  uint32_t rows;
  uint32_t share;  // consecutive rows that have the same x
  uint32_t add;    // to y as it is
  uint32_t split;  // warps that share out the columns: 1, 2 or 4. A block has kGemvOutputs * kGemvWarps / split outputs
};

struct DequantizeArgs {
  MatrixPart w;
  bf16* out;  // [outputs][cols]
  uint32_t cols;
};

// Rows as FP8 (E4M3), each group of kF8Group columns by its own scale: x = out * scale. Rows from `rows` to `padded`
// are zeros. A warp for each group.
inline constexpr uint32_t kF8Group = 128;
struct QuantizeRowsArgs {
  const bf16* x;   // [rows][cols]
  uint8_t* out;    // [padded][cols]
  float* scales;   // [cols / kF8Group][padded]
  uint32_t rows, padded, cols;
};

// Rows of one expert that are multiplied together.
struct ExpertTile {
  uint32_t expert, first, rows;  // rows [first, first + rows) of the order
};

// y = x W^T on tensor cores, W made bf16 on the way.
struct TileGemmArgs {
  MatrixParts w;
  const bf16* x;              // [rows / share][cols]
  float* y;                   // [rows][outputs]
  const ExpertTile* tiles;    // nullptr: one matrix, tiles in order
  const uint32_t* tile_count; // with tiles: blocks beyond have nothing to do
  const uint32_t* order;      // with tiles: [rows], which row
  uint32_t rows, share;
};

// The best experts of each token: softmax over all of them, the best per_token, equal ones by number; weights made to
// sum to 1 if normalize. A warp for each row.
struct ChooseExpertsArgs {
  const float* logits;  // [rows][experts]
  uint32_t* chosen;     // [rows][per_token], best first
  float* weights;       // [rows][per_token]
  uint32_t rows, experts, per_token, normalize;
};

// Sorts (token, choice) pairs by expert. One block.
struct GroupExpertsArgs {
  const uint32_t* chosen;  // [pairs]
  uint32_t* order;         // [pairs]
  ExpertTile* tiles;       // [pairs / kGemmTileRows + min(experts, pairs)]
  uint32_t* tile_count;
  uint32_t pairs, experts;
};

// x += sum of the chosen experts' outputs by weight.
struct CombineExpertsArgs {
  float* x;              // [rows][width]
  const float* y;        // [rows][per_token][width]
  const float* weights;  // [rows][per_token]
  uint32_t rows, width, per_token;
};

// Brings keys and values from the host, some consecutive tokens for each entry.
struct GatherEntry {
  const uint8_t *k, *v;  // mapped host memory: rows as of KvRun; those of int8 are read from k on
  bf16 *to_k, *to_v;     // [tokens][head_dim]
  uint32_t tokens;
  uint32_t unused;
};
inline constexpr uint32_t kInt8Channels = 32;  // with one scale
struct GatherArgs {
  const GatherEntry* entries;
  uint32_t count, head_dim;
  uint32_t int8;  // what is brought is int8 (common/kv/geometry.h), and becomes bf16 on its way
};

// A KvRun on the device.
struct DeviceRun {
  const bf16 *k, *v;   // [tokens][head_dim]
  uint32_t position;   // of the first token
  uint32_t first_key;  // keys of the runs before it in its list
  uint16_t tokens, first_row;
  uint32_t unused;
};

// What one block attends: some queries of one KV head over some consecutive runs. Query s of the item is query head
// kv_head * per_head + s % per_head of row first_row + s / per_head.
struct AttendItem {
  uint32_t first_row;  // of the QueryBlock, in the step
  uint32_t kv_head;
  uint32_t first_query, queries;  // of those of first_row and on: [first_query, first_query + queries)
  uint32_t first_run, runs;
  // States of a part: index of the first query's; kNoPart: merged straight into the rows' states.
  uint32_t part;
};
inline constexpr uint32_t kNoPart = UINT32_MAX;

// States are partials: (m: largest score, l: sum of exp(score - m), o: [head_dim], sum of exp(score - m) * value).
// Those of the rows come first, [rows][query_heads]; parts follow. A block for each item.
struct AttendFewArgs {
  const float* q;             // [rows][query_heads][head_dim]
  const uint32_t* positions;  // [rows]
  const AttendItem* items;
  const DeviceRun* runs;
  float *m, *l, *o;
  uint32_t query_heads, per_head, head_dim;
  float scale;
};

// As AttendFew, on tensor cores: queries and weights rounded to bf16; never parts. K and V are aligned to 16 bytes.
struct AttendManyArgs {
  const bf16* q;
  const uint32_t* positions;
  const AttendItem* items;
  const DeviceRun* runs;
  float *m, *l, *o;
  uint32_t query_heads, per_head, head_dim;
  float scale;
};

// Merges parts into a row's states, in order.
struct MergeItem {
  uint32_t first_state;  // of the row and KV head
  uint32_t first_part;   // parts' states: [parts][queries]
  uint32_t parts, queries;
};
struct MergePartsArgs {
  const MergeItem* items;  // a column of blocks (grid y) for each; a block (grid x) for each query
  float *m, *l, *o;
  uint32_t head_dim;
};

// Adds up the values that rows see, of a row and KV head in one float each. Item: queries is the block's rows. A column
// of blocks (grid x) for each item, a block (grid y) for each of its rows.
struct SumValuesArgs {
  const uint32_t* positions;  // [rows]
  const AttendItem* items;
  const DeviceRun* runs;
  float *sums, *counts;  // [rows][kv_heads][head_dim], [rows][kv_heads]
  uint32_t kv_heads, head_dim;
};

// Another key in each state, of log-sum-exp `missed` and the mean of the values that the row saw. A block for each
// state.
struct AddResidualArgs {
  const float* missed;         // [rows][query_heads]
  const float *sums, *counts;  // as SumValues left them
  float *m, *l, *o;
  uint32_t query_heads, per_head, head_dim;
};

// o / l; zero where nothing was attended. Either of the outputs may be nullptr. A block for each state.
struct FinishAttentionArgs {
  const float *l, *o;
  float* out;      // [rows][query_heads][head_dim]
  bf16* out_bf16;  // the same
  uint32_t head_dim;
};

struct LogSumExpArgs {
  const float *m, *l;
  float* out;  // [count]
  uint32_t count;
};

// The best of each slice of a row, in the order of Backend::TopLogits; those that are missing have the id kNoToken. A
// block (grid x) for each slice of kTopSlice, a column of blocks (grid y) for each row. Again over what is left, until
// that is one slice.
inline constexpr uint32_t kTopSlice = 2048, kTopThreads = 128, kNoToken = UINT32_MAX;
struct TopLogitsArgs {
  const float* logits;           // [rows][count]; nullptr: candidates are given
  const TokenLogit* candidates;  // [rows][count]
  TokenLogit* out;               // [rows][slices][keep]
  uint32_t count, keep;
};

// Logits of tokens that a row has seen, divided by the row's penalty if positive, else multiplied by it. A column of
// blocks (grid y) for each row.
struct PenalizeArgs {
  float* logits;          // [rows][count]
  const uint64_t* seen;   // [rows][ceil(count / 64)]
  const float* penalties; // [rows]; 1: as they are
  uint32_t count;
};

// Sums of LogitMass (backend/top_logits.h). A block (grid x) for each slice of kTopSlice, a column of blocks (grid y)
// for each row.
struct LogitMassArgs {
  const float* logits;        // [rows][count]
  const TokenLogit* top;      // [rows][keep]: the first of a row is its largest
  const float* temperatures;  // [rows]; 0: the mass is 0
  uint64_t* masses;           // [rows][slices]
  uint32_t count, keep;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ARGS_H_
