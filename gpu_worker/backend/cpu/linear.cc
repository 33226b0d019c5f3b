#include "gpu_worker/backend/cpu/linear.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "gpu_worker/backend/cpu/kernels.h"

namespace hga {
namespace {

// Outputs of a piece: few enough to share a matrix out evenly, many enough for a panel's slice of x to stay cached.
constexpr uint32_t kPieceOutputs = 128;
// GEMV takes a piece in so many parts, and GEMM the last ones: threads end together.
constexpr uint32_t kPieceParts = 4;

// Rows [first, first + count) of one matrix times `rows` vectors x; y has `stride` elements for each.
void GemvOfPart(const TensorView& part, uint32_t first, uint32_t count, const float* x, uint32_t rows, size_t stride,
                float* y) {
  thread_local std::vector<float> weights, dots;
  weights.resize(part.cols);
  dots.resize(rows);
  for (uint32_t o = 0; o < count; ++o) {
    FastDequantizeTensorRow(part, first + o, weights.data());
    DotRows(weights.data(), part.cols, x, part.cols, rows, dots.data());
    for (uint32_t i = 0; i < rows; ++i) y[i * stride + o] = dots[i];
  }
}

}  // namespace

absl::StatusOr<Linear> Linear::Create(std::shared_ptr<LinearContext> context, std::vector<TensorView> parts,
                                      bool gemm) {
  Linear linear;
  linear.gemm_ = gemm;
  linear.context_ = std::move(context);
  linear.parts_ = std::move(parts);
  linear.integer_ = true;
  for (const TensorView& part : linear.parts_) {
    linear.outputs_ += part.rows;
    linear.integer_ &= HasIntegerGemm(part.type, part.cols);
    linear.largest_activation_ = std::min(linear.largest_activation_, LargestActivation(part.type));
  }
  linear.CutPieces();
  const auto& floats = linear.context_->floats;
  if (gemm && floats != nullptr && (!linear.integer_ || (linear.context_->bf16_copy && MultipliesBf16(*floats)))) {
    HGA_ASSIGN_OR_RETURN(linear.packed_, FloatGemm::Create(floats, linear.parts_));
  }
  return linear;
}

void Linear::CutPieces() {
  uint32_t output = 0;
  for (const TensorView& part : parts_) {
    for (uint32_t first = 0; first < part.rows; first += kPieceOutputs) {
      const uint32_t count = std::min(kPieceOutputs, part.rows - first);
      pieces_.push_back({&part, first, count, output});
      output += count;
    }
  }
}

absl::Status Linear::Apply(const float* x, uint32_t rows, float* y) {
  if (integer_ && packed_ == nullptr) {
    IntegerApply(x, rows, y);
    return absl::OkStatus();
  }
  for (uint32_t r = 0; r < rows; r += kGemmRows) {
    const uint32_t tile = std::min(kGemmRows, rows - r);
    const float* tile_x = x + size_t{r} * cols();
    float* tile_y = y + size_t{r} * outputs_;
    if (packed_ != nullptr && tile > kGemvRowsMax) {
      HGA_RETURN_IF_ERROR(packed_->Apply(tile_x, tile, tile_y));
    } else if (integer_) {
      IntegerApply(tile_x, tile, tile_y);
    } else {
      FloatGemv(tile_x, tile, tile_y);
    }
  }
  return absl::OkStatus();
}

void Linear::IntegerApply(const float* x, uint32_t rows, float* y) {
  RoundedRows& rounded = context_->rounded;
  rounded.Resize(rows, cols(), largest_activation_);
  context_->workers->RunRows(rows, [&](uint32_t r, uint32_t) { rounded.SetRow(r, x + size_t{r} * cols()); });
  const uint32_t rest = rows % kGemmRows, gemv = !gemm_ ? rows : rest <= kGemvRowsMax ? rest : 0;
  if (gemv < rows) IntegerPieces(0, rows - gemv, true, y);
  if (gemv > 0) IntegerPieces(rows - gemv, gemv, false, y + size_t{rows - gemv} * outputs_);
}

void Linear::IntegerPieces(uint32_t first_row, uint32_t rows, bool as_gemm, float* y) {
  const IntegerProduct product{&context_->rounded, first_row, rows, outputs_};
  if (as_gemm) {
    RunPieces([&](const Piece& p) { IntegerGemm(*p.part, p.first, p.count, product, y + p.output); });
  } else {
    RunParts([&](const Piece& p) { IntegerGemv(*p.part, p.first, p.count, product, y + p.output); });
  }
}

// Each weight is read once for all rows of x.
void Linear::FloatGemv(const float* x, uint32_t rows, float* y) {
  RunParts([&](const Piece& piece) {
    GemvOfPart(*piece.part, piece.first, piece.count, x, rows, outputs_, y + piece.output);
  });
}

// Part `part` of a piece, perhaps none.
void Linear::UsePart(Piece piece, uint32_t part, absl::FunctionRef<void(const Piece&)> use) {
  const uint32_t outputs = kPieceOutputs / kPieceParts, skip = std::min(part * outputs, piece.count);
  piece.first += skip;
  piece.output += skip;
  piece.count = std::min(outputs, piece.count - skip);
  if (piece.count > 0) use(piece);
}

// In parts, each thread one stretch of the weights as far as possible: memory is slow where reading begins anew.
void Linear::RunParts(absl::FunctionRef<void(const Piece&)> use) {
  context_->workers->RunNeighbours(static_cast<uint32_t>(pieces_.size()) * kPieceParts, [&](uint32_t i, uint32_t) {
    UsePart(pieces_[i / kPieceParts], i % kPieceParts, use);
  });
}

// Whole pieces first, the last ones in parts: whoever is done early has something left to do.
void Linear::RunPieces(absl::FunctionRef<void(const Piece&)> use) {
  const auto all = static_cast<uint32_t>(pieces_.size());
  const uint32_t first = all - std::min(all, context_->workers->threads());  // of those in parts
  context_->workers->Run(first + (all - first) * kPieceParts, [&](uint32_t i, uint32_t) {
    if (i < first) return use(pieces_[i]);
    UsePart(pieces_[first + (i - first) / kPieceParts], (i - first) % kPieceParts, use);
  });
}

}  // namespace hga
