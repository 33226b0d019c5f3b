#include "gpu_worker/backend/check_rows.h"

#include "absl/strings/str_cat.h"

namespace hga {

absl::Status CheckRows(absl::Span<const BatchRow> rows, uint32_t max_rows, const ModelConfig& config) {
  if (rows.empty() || rows.size() > max_rows) {
    return absl::InvalidArgumentError(absl::StrCat("a step of ", rows.size(), " rows, must be 1 to ", max_rows));
  }
  for (const BatchRow& row : rows) {
    if (row.token_id >= config.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token ", row.token_id, " is outside the vocabulary of ", config.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckKvRows(const KvGeometry& geometry, uint32_t layer, absl::Span<const KvRow> kv_rows, size_t rows) {
  if (layer >= geometry.layers) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " of ", geometry.layers));
  }
  if (kv_rows.size() != rows) {
    return absl::InvalidArgumentError(absl::StrCat(kv_rows.size(), " places for the K/V of ", rows, " rows"));
  }
  for (const KvRow& row : kv_rows) {
    if (row.block == nullptr || row.token_in_chunk >= geometry.chunk_tokens) {
      return absl::InvalidArgumentError(absl::StrCat("no place for K/V: token ", row.token_in_chunk, " of a chunk of ",
                                                     geometry.chunk_tokens, row.block == nullptr ? ", no block" : ""));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPlan(const KvGeometry& geometry, const AttendPlan& plan, size_t rows) {
  for (const QueryBlock& block : plan.blocks) {
    if (block.rows == 0 || block.first_row >= rows || block.rows > rows - block.first_row) {
      return absl::InvalidArgumentError(absl::StrCat("attention of rows ", block.first_row, " and on, ", block.rows,
                                                     " of them, in a step of ", rows));
    }
    if (block.runs.size() != geometry.kv_heads) {
      return absl::InvalidArgumentError(
          absl::StrCat("runs for ", block.runs.size(), " KV heads of ", geometry.kv_heads));
    }
    for (const auto& runs : block.runs) {
      for (const KvRun& run : runs) {
        if (run.k == nullptr || run.v == nullptr || run.tokens == 0 || run.tokens > geometry.group_tokens) {
          return absl::InvalidArgumentError(absl::StrCat("a run of ", run.tokens, " keys at position ", run.position,
                                                         ", must be 1 to ", geometry.group_tokens));
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace hga
