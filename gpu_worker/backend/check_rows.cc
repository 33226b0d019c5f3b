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

}  // namespace hga
