#include "gpu_worker/backend/cuda/cuda_linear.h"

#include <algorithm>
#include <utility>

#include "common/base/status.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {
namespace {

constexpr uint32_t kDequantizeThreads = 256, kDequantizeBlocks = 1024, kAddThreads = 256, kAddBlocks = 2048;

uint32_t Blocks(uint64_t count, uint32_t of) { return static_cast<uint32_t>((count + of - 1) / of); }

uint32_t OutputTiles(const MatrixParts& parts) {
  uint32_t tiles = 0;
  for (uint32_t p = 0; p < parts.count; ++p) tiles += Blocks(parts.part[p].outputs, kGemmTileOutputs);
  return tiles;
}

MatrixParts PartsOf(const std::vector<LoadedMatrix>& loaded, uint32_t cols) {
  MatrixParts parts;
  parts.cols = cols;
  for (const LoadedMatrix& matrix : loaded) {
    parts.part[parts.count++] = matrix.part;
    parts.outputs += matrix.part.outputs;
  }
  return parts;
}

// Enough warps to fill a device, none of them with many more columns than it loads at once. It depends on the matrix
// alone: a row's results are the same in any company.
uint32_t GemvSplit(const MatrixParts& w) {
  constexpr uint32_t kColsOfWarp = 1024, kEnoughWarps = 512;
  const uint32_t groups = Blocks(w.outputs, kGemvOutputs);
  uint32_t split = 1;
  while (split < kGemvWarps && (groups * split < kEnoughWarps || w.cols > split * kColsOfWarp)) split *= 2;
  return split;
}

absl::Status Gemv(Device* device, const MatrixParts& w, const float* x, const uint32_t* expert_of, uint32_t rows,
                  uint32_t share, bool add, float* y) {
  const uint32_t split = GemvSplit(w);
  const LaunchShape shape{Blocks(w.outputs, kGemvOutputs * kGemvWarps / split),
                          expert_of == nullptr ? Blocks(rows, kGemvRows) : rows, kGemvThreads, kGemvSharedBytes};
  return device->Launch(DeviceStream::kCompute, shape, GemvArgs{w, x, y, expert_of, rows, share, add, split});
}

// Scales of a row of tiles in whole 16 bytes, as the library wants them.
bool F8GemmTakes(uint32_t outputs, uint32_t cols) { return outputs % 16 == 0 && cols % (4 * kF8Group) == 0; }

}  // namespace

absl::StatusOr<CudaLinear> CudaLinear::Create(WeightLoader* loader, const std::vector<TensorView>& parts) {
  CudaLinear linear;
  for (const TensorView& part : parts) {
    HGA_ASSIGN_OR_RETURN(LoadedMatrix matrix, loader->Matrix(part));
    linear.loaded_.push_back(std::move(matrix));
  }
  linear.parts_ = PartsOf(linear.loaded_, parts[0].cols);
  return linear;
}

uint64_t CudaLinear::RoundedBytes(const std::vector<TensorView>& parts) {
  uint64_t most = 0;
  for (const TensorView& part : parts) {
    if (part.type == TensorType::kF8E4M3) most = std::max(most, uint64_t{part.rows} * part.cols * sizeof(bf16));
  }
  return most;
}

// Rows of whole 16 bytes, everywhere.
bool CudaLinear::GemmTakes() const {
  if (parts_.cols % 8 != 0) return false;
  for (uint32_t p = 0; p < parts_.count; ++p) {
    if (parts_.part[p].outputs % 4 != 0) return false;
  }
  return true;
}

absl::Status CudaLinear::ApplyExactly(Device* device, const float* x, uint32_t rows, float* y) const {
  return Gemv(device, parts_, x, nullptr, rows, 1, false, y);
}

absl::Status CudaLinear::AddTo(Device* device, const GemmScratch& scratch, const Activations& x, uint32_t rows,
                               float* product, float* sum) const {
  if (IsFewRows(rows)) return Gemv(device, parts_, x.floats, nullptr, rows, 1, true, sum);
  HGA_RETURN_IF_ERROR(Apply(device, scratch, x, rows, product));
  const uint64_t count = uint64_t{rows} * parts_.outputs;
  return device->Launch(DeviceStream::kCompute, {std::min(kAddBlocks, Blocks(count, kAddThreads)), 1, kAddThreads, 0},
                        AddArgs{sum, product, count});
}

uint32_t CudaLinear::F8Cols(const std::vector<TensorView>& parts) {
  uint32_t most = 0;
  for (const TensorView& part : parts) {
    if (part.type == TensorType::kF8E4M3 && F8GemmTakes(part.rows, part.cols)) most = std::max(most, part.cols);
  }
  return most;
}

absl::Status CudaLinear::Quantize(Device* device, const GemmScratch& scratch, const bf16* x, uint32_t rows,
                                  uint32_t padded) const {
  const uint32_t warps = kDequantizeThreads / 32, groups = padded * (parts_.cols / kF8Group);
  return device->Launch(DeviceStream::kCompute, {Blocks(groups, warps), 1, kDequantizeThreads, 0},
                        QuantizeRowsArgs{x, scratch.f8, scratch.f8_scales, rows, padded, parts_.cols});
}

// By the library, from bf16; FP8 weights are made bf16 first.
absl::Status CudaLinear::ApplyPart(Device* device, const GemmScratch& scratch, const MatrixPart& part, const bf16* x,
                                   uint32_t rows, float* y) const {
  const bf16* weights = static_cast<const bf16*>(part.data);
  if (part.type == MatrixType::kF8E4M3) {
    const uint32_t blocks =
        std::min(kDequantizeBlocks, Blocks(uint64_t{part.outputs} * parts_.cols, kDequantizeThreads));
    HGA_RETURN_IF_ERROR(device->Launch(DeviceStream::kCompute, {blocks, 1, kDequantizeThreads, 0},
                                       DequantizeArgs{part, scratch.rounded_weights, parts_.cols}));
    weights = scratch.rounded_weights;
  }
  GemmCall call;
  call.x = x;
  call.w = weights;
  call.y = y;
  call.rows = rows;
  call.outputs = part.outputs;
  call.cols = parts_.cols;
  call.y_stride = parts_.outputs;
  return device->Gemm(DeviceStream::kCompute, call);
}

absl::Status CudaLinear::Apply(Device* device, const GemmScratch& scratch, const Activations& x, uint32_t rows,
                               float* y) const {
  if (IsFewRows(rows)) return ApplyExactly(device, x.floats, rows, y);
  if (!device->has_gemm() || !GemmTakes()) {
    const LaunchShape shape{OutputTiles(parts_), Blocks(rows, kGemmTileRows), kGemmThreads, kTileGemmSharedBytes};
    return device->Launch(DeviceStream::kCompute, shape,
                          TileGemmArgs{parts_, x.rounded, y, nullptr, nullptr, nullptr, rows, 1});
  }
  const uint32_t padded = Blocks(rows, kF8Rows) * kF8Rows;
  bool quantized = false;
  uint32_t offset = 0;
  for (uint32_t p = 0; p < parts_.count; offset += parts_.part[p++].outputs) {
    const MatrixPart& part = parts_.part[p];
    const bool f8 = part.type == MatrixType::kF8E4M3 && scratch.f8 != nullptr && padded <= scratch.f8_rows &&
                    F8GemmTakes(part.outputs, parts_.cols);
    if (!f8) {
      HGA_RETURN_IF_ERROR(ApplyPart(device, scratch, part, x.rounded, rows, y + offset));
      continue;
    }
    if (!std::exchange(quantized, true)) HGA_RETURN_IF_ERROR(Quantize(device, scratch, x.rounded, rows, padded));
    HGA_RETURN_IF_ERROR(device->F8Gemm(
        DeviceStream::kCompute, {scratch.f8, scratch.f8_scales, static_cast<const uint8_t*>(part.data), part.scales,
                                 y + offset, padded, part.outputs, parts_.cols, parts_.outputs}));
  }
  return absl::OkStatus();
}

absl::StatusOr<CudaExperts> CudaExperts::Create(WeightLoader* loader,
                                                const std::vector<const std::vector<TensorView>*>& parts) {
  CudaExperts experts;
  for (const std::vector<TensorView>* part : parts) {
    HGA_ASSIGN_OR_RETURN(LoadedMatrix matrix, loader->Matrices(*part));
    experts.loaded_.push_back(std::move(matrix));
  }
  experts.parts_ = PartsOf(experts.loaded_, parts[0]->front().cols);
  return experts;
}

absl::Status CudaExperts::ApplyFew(Device* device, const float* x, const uint32_t* expert_of, uint32_t rows,
                                   uint32_t share, float* y) const {
  return Gemv(device, parts_, x, expert_of, rows, share, false, y);
}

absl::Status CudaExperts::ApplyMany(Device* device, const bf16* x, const ExpertTile* tiles, const uint32_t* tile_count,
                                    uint32_t max_tiles, const uint32_t* order, uint32_t rows, uint32_t share,
                                    float* y) const {
  const LaunchShape shape{OutputTiles(parts_), max_tiles, kGemmThreads, kTileGemmSharedBytes};
  return device->Launch(DeviceStream::kCompute, shape,
                        TileGemmArgs{parts_, x, y, tiles, tile_count, order, rows, share});
}

}  // namespace hga
