#include "gpu_worker/model/check_finite.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/quant.h"
#include "gpu_worker/model/read_only_file.h"

namespace hga {
namespace {

// Pages read from a cold disk in all, about: a checkpoint of many small experts loads as fast as one of few matrices.
constexpr size_t kRowsOfModel = 16384;

// Tensors whose rows are asked for together, so that a cold disk is kept busy.
constexpr size_t kBatch = 256;

uint32_t SampledRow(const TensorView& view, uint32_t rows, uint32_t i) {
  return rows == 1 ? 0 : static_cast<uint32_t>(uint64_t{view.rows - 1} * i / (rows - 1));
}

void PrefetchRows(const TensorView& view, uint32_t rows) {
  rows = std::min(rows, view.rows);
  for (uint32_t i = 0; i < rows; ++i) Prefetch(view.row(SampledRow(view, rows, i)), view.row_bytes());
}

absl::Status NotFinite(const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, " is infinite or not a number: the file is damaged or was converted badly"));
}

}  // namespace

absl::Status CheckFinite(const ModelWeights& weights) {
  const std::vector<NamedTensor> tensors = ListTensors(weights);
  const uint32_t rows =
      static_cast<uint32_t>(std::clamp<size_t>(kRowsOfModel / std::max<size_t>(1, tensors.size()), 3, 16));
  for (size_t i = 0; i < tensors.size(); ++i) {
    for (size_t ahead = i; i % kBatch == 0 && ahead < std::min(i + kBatch, tensors.size()); ++ahead) {
      PrefetchRows(tensors[ahead].view, rows);
    }
    HGA_RETURN_IF_ERROR(CheckFinite(tensors[i], rows));
  }
  return absl::OkStatus();
}

absl::Status CheckFinite(const NamedTensor& tensor, uint32_t rows) {
  const TensorView& view = tensor.view;
  const std::string what = absl::StrCat("tensor '", tensor.name, "' (", TensorTypeName(view.type), "): ");
  for (size_t i = 0; view.tile_scales != nullptr && i < TileScaleCount(view); ++i) {
    if (!std::isfinite(view.tile_scales[i])) return NotFinite(absl::StrCat(what, "the scale of tile ", i));
  }
  rows = std::min(rows, view.rows);
  for (uint32_t i = 0; i < rows; ++i) {
    const uint32_t row = SampledRow(view, rows, i);
    if (RowIsFinite(view.type, view.row(row), view.cols)) continue;
    const char* part = TensorBlockElements(view.type) == 1 ? "an element of row " : "a scale of row ";
    return NotFinite(absl::StrCat(what, part, row));
  }
  return absl::OkStatus();
}

}  // namespace hga
