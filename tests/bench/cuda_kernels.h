// Kernels of the CUDA backend alone, against what the device can do.
#ifndef HGA_TESTS_BENCH_CUDA_KERNELS_H_
#define HGA_TESTS_BENCH_CUDA_KERNELS_H_

#include "absl/status/status.h"
#include "gpu_worker/backend/cuda/device.h"
#include "gpu_worker/model/weights.h"
#include "tests/bench/report.h"

namespace hga {

// Bandwidths of memory and bus, of the gather and of routed attention, in GB/s and as shares of those.
absl::Status MeasureBandwidths(Device* device, const ModelConfig& config, bool quick, Report* report);
// Of an FP8 layer's projections at several numbers of rows, against cuBLASLt on bf16 weights of the same shape.
absl::Status MeasureGemm(Device* device, const LayerWeights& weights, bool quick, Report* report);

}  // namespace hga

#endif  // HGA_TESTS_BENCH_CUDA_KERNELS_H_
