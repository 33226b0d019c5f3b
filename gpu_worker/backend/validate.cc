#include "gpu_worker/backend/validate.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

absl::Status CheckTensor(const char* name, const TensorView& tensor, uint32_t rows, uint32_t cols) {
  if (tensor.data == nullptr) return absl::InvalidArgumentError(absl::StrCat("weights: ", name, " is missing"));
  if (tensor.rows != rows || tensor.cols != cols) {
    return absl::InvalidArgumentError(absl::StrCat("weights: ", name, " is [", tensor.rows, "][", tensor.cols,
                                                   "], must be [", rows, "][", cols, "]"));
  }
  if (cols % TensorBlockElements(tensor.type) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("weights: ", name, " has ", cols, " columns, not whole blocks of ",
                                                   TensorTypeName(tensor.type)));
  }
  return absl::OkStatus();
}

absl::Status CheckLayer(const LayerWeights& layer, const ModelConfig& c) {
  const uint32_t q = c.query_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  HGA_RETURN_IF_ERROR(CheckTensor("attn_norm", layer.attn_norm, 1, c.hidden));
  HGA_RETURN_IF_ERROR(CheckTensor("q", layer.q, q, c.hidden));
  HGA_RETURN_IF_ERROR(CheckTensor("k", layer.k, kv, c.hidden));
  HGA_RETURN_IF_ERROR(CheckTensor("v", layer.v, kv, c.hidden));
  HGA_RETURN_IF_ERROR(CheckTensor("attn_output", layer.attn_output, c.hidden, q));
  HGA_RETURN_IF_ERROR(CheckTensor("ffn_norm", layer.ffn_norm, 1, c.hidden));
  HGA_RETURN_IF_ERROR(CheckTensor("ffn_gate", layer.ffn_gate, c.ffn, c.hidden));
  HGA_RETURN_IF_ERROR(CheckTensor("ffn_up", layer.ffn_up, c.ffn, c.hidden));
  return CheckTensor("ffn_down", layer.ffn_down, c.hidden, c.ffn);
}

absl::Status CheckBlock(const QueryBlock& block, size_t rows, const KvGeometry& geometry) {
  if (block.rows == 0 || block.first_row > rows || block.rows > rows - block.first_row) {
    return absl::InvalidArgumentError(absl::StrCat("attend: rows ", block.first_row, " + ", block.rows,
                                                   " are outside the batch of ", rows));
  }
  if (block.runs.size() != geometry.kv_heads) {
    return absl::InvalidArgumentError(absl::StrCat("attend: runs for ", block.runs.size(), " KV heads, the model has ",
                                                   geometry.kv_heads));
  }
  for (const auto& runs : block.runs) {
    for (const KvRun& run : runs) {
      if (run.k == nullptr || run.v == nullptr || run.tokens == 0 || run.tokens > geometry.group_tokens) {
        return absl::InvalidArgumentError(absl::StrCat("attend: a run at position ", run.position, " has ", run.tokens,
                                                       " tokens or no memory"));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateBackendInputs(const ModelWeights& weights, const KvGeometry& geometry,
                                   const BackendOptions& options) {
  const ModelConfig& c = weights.config;
  HGA_RETURN_IF_ERROR(c.Validate());
  HGA_RETURN_IF_ERROR(geometry.Validate());
  if (!(geometry == c.Geometry(geometry.chunk_tokens, geometry.group_tokens))) {
    return absl::InvalidArgumentError("backend: the K/V geometry is not the model's");
  }
  if (c.head_dim % 8 != 0 || c.head_dim > 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("backend: head_dim ", c.head_dim, " must be a multiple of 8 and at most 256"));
  }
  if (options.max_rows == 0 || options.max_rows > 65536 || options.threads < 0 || options.threads > 1024) {
    return absl::InvalidArgumentError(absl::StrCat("backend: max_rows ", options.max_rows, " must be 1 to 65536, threads ",
                                                   options.threads, " 0 to 1024"));
  }
  HGA_RETURN_IF_ERROR(CheckTensor("embedding", weights.embedding, c.vocab_size, c.hidden));
  HGA_RETURN_IF_ERROR(CheckTensor("output_norm", weights.output_norm, 1, c.hidden));
  HGA_RETURN_IF_ERROR(CheckTensor("output", weights.output, c.vocab_size, c.hidden));
  if (weights.layers.size() != c.layers) {
    return absl::InvalidArgumentError(absl::StrCat("weights: ", weights.layers.size(), " layers, must be ", c.layers));
  }
  for (const LayerWeights& layer : weights.layers) HGA_RETURN_IF_ERROR(CheckLayer(layer, c));
  return absl::OkStatus();
}

absl::Status ValidateRows(absl::Span<const BatchRow> rows, const ModelConfig& config, uint32_t max_rows) {
  if (rows.empty() || rows.size() > max_rows) {
    return absl::InvalidArgumentError(absl::StrCat("step: ", rows.size(), " rows, must be 1 to ", max_rows));
  }
  for (const BatchRow& row : rows) {
    if (row.token_id >= config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("step: token ", row.token_id, " is outside the vocabulary of ",
                                                     config.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateKvRows(uint32_t layer, absl::Span<const KvRow> kv_rows, size_t rows, const KvGeometry& geometry) {
  if (layer >= geometry.layers) {
    return absl::InvalidArgumentError(absl::StrCat("step: layer ", layer, " of ", geometry.layers));
  }
  if (kv_rows.size() != rows) {
    return absl::InvalidArgumentError(absl::StrCat("step: ", kv_rows.size(), " K/V rows for ", rows, " rows"));
  }
  for (const KvRow& row : kv_rows) {
    if (row.block == nullptr || row.token_in_chunk >= geometry.chunk_tokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("step: no block, or token ", row.token_in_chunk, " of a chunk of ", geometry.chunk_tokens));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidatePlan(const AttendPlan& plan, size_t rows, const KvGeometry& geometry) {
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    const QueryBlock& block = plan.blocks[i];
    HGA_RETURN_IF_ERROR(CheckBlock(block, rows, geometry));
    // Ascending, as callers build them; that also makes overlaps easy to see.
    if (i > 0 && block.first_row < plan.blocks[i - 1].first_row + plan.blocks[i - 1].rows) {
      return absl::InvalidArgumentError(absl::StrCat("attend: block at row ", block.first_row,
                                                     " overlaps or precedes the one before it"));
    }
  }
  return absl::OkStatus();
}

}  // namespace hga
