#include "gpu_worker/backend/cuda/cuda_mlp.h"

#include <algorithm>
#include <vector>

#include "common/base/status.h"

namespace hga {
namespace {

constexpr uint32_t kThreads = 256, kMaxBlocks = 2048;

LaunchShape Over(uint64_t count) {
  const uint64_t blocks = (count + kThreads - 1) / kThreads;
  return {static_cast<uint32_t>(std::min<uint64_t>(blocks, kMaxBlocks)), 1, kThreads, 0};
}

// Of the gate's and the other projection in w.gate_up.
absl::Status SwiGlu(Device* device, uint32_t rows, uint32_t width, bool few, const Workspace& w) {
  return device->Launch(DeviceStream::kCompute, Over(uint64_t{rows} * width),
                        SwiGluArgs{w.gate_up, few ? w.activated : nullptr, few ? nullptr : w.activated_bf16, rows,
                                   width});
}

}  // namespace

absl::StatusOr<CudaMlp> CudaMlp::Create(WeightLoader* loader, const ModelConfig& config, const LayerWeights& w) {
  CudaMlp mlp;
  if (config.experts == 0) {
    HGA_ASSIGN_OR_RETURN(mlp.gate_up_, CudaLinear::Create(loader, {w.ffn_gate, w.ffn_up}));
    HGA_ASSIGN_OR_RETURN(mlp.down_, CudaLinear::Create(loader, {w.ffn_down}));
    return mlp;
  }
  HGA_ASSIGN_OR_RETURN(mlp.router_, CudaLinear::Create(loader, {w.expert_router}));
  HGA_ASSIGN_OR_RETURN(mlp.expert_gate_up_, CudaExperts::Create(loader, {&w.expert_gate, &w.expert_up}));
  HGA_ASSIGN_OR_RETURN(mlp.expert_down_, CudaExperts::Create(loader, {&w.expert_down}));
  return mlp;
}

absl::Status CudaMlp::Apply(Device* device, const ModelConfig& config, uint32_t rows, const Workspace& w) const {
  return config.experts == 0 ? ApplyDense(device, config, rows, w) : ApplyExperts(device, config, rows, w);
}

absl::Status CudaMlp::ApplyDense(Device* device, const ModelConfig& config, uint32_t rows, const Workspace& w) const {
  HGA_RETURN_IF_ERROR(gate_up_.Apply(device, w.scratch, {w.normed, w.normed_bf16}, rows, w.gate_up));
  HGA_RETURN_IF_ERROR(SwiGlu(device, rows, config.ffn, IsFewRows(rows), w));
  return down_.AddTo(device, w.scratch, {w.activated, w.activated_bf16}, rows, w.projected, w.x);
}

absl::Status CudaMlp::ApplyExperts(Device* device, const ModelConfig& c, uint32_t rows, const Workspace& w) const {
  const uint32_t per_token = c.experts_per_token, pairs = rows * per_token;
  HGA_RETURN_IF_ERROR(router_.ApplyExactly(device, w.normed, rows, w.router));
  HGA_RETURN_IF_ERROR(device->Launch(DeviceStream::kCompute, {rows, 1, 32, 0},
                                     ChooseExpertsArgs{w.router, w.chosen, w.shares, rows, c.experts, per_token,
                                                       c.normalize_expert_weights}));
  if (IsFewRows(rows)) {
    HGA_RETURN_IF_ERROR(expert_gate_up_.ApplyFew(device, w.normed, w.chosen, pairs, per_token, w.gate_up));
    HGA_RETURN_IF_ERROR(SwiGlu(device, pairs, c.expert_ffn, true, w));
    HGA_RETURN_IF_ERROR(expert_down_.ApplyFew(device, w.activated, w.chosen, pairs, 1, w.expert_out));
  } else {
    const uint32_t max_tiles = MaxExpertTiles(pairs, c.experts);
    HGA_RETURN_IF_ERROR(device->Launch(DeviceStream::kCompute, {1, 1, 256, c.experts * 4},
                                       GroupExpertsArgs{w.chosen, w.order, w.tiles, w.tile_count, pairs, c.experts}));
    HGA_RETURN_IF_ERROR(expert_gate_up_.ApplyMany(device, w.normed_bf16, w.tiles, w.tile_count, max_tiles, w.order,
                                                  pairs, per_token, w.gate_up));
    HGA_RETURN_IF_ERROR(SwiGlu(device, pairs, c.expert_ffn, false, w));
    HGA_RETURN_IF_ERROR(expert_down_.ApplyMany(device, w.activated_bf16, w.tiles, w.tile_count, max_tiles, w.order,
                                               pairs, 1, w.expert_out));
  }
  return device->Launch(DeviceStream::kCompute, {(c.hidden + kThreads - 1) / kThreads, rows, kThreads, 0},
                        CombineExpertsArgs{w.x, w.expert_out, w.shares, rows, c.hidden, per_token});
}

}  // namespace hga
