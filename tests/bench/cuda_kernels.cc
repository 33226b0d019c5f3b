#include "tests/bench/cuda_kernels.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/backend/cuda/cuda_linear.h"
#include "gpu_worker/backend/cuda/f8_probe.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {
namespace {

constexpr uint32_t kUnitTokens = 16;

// Median seconds of `work` on the stream, of some rounds of ten.
absl::StatusOr<double> Seconds(Device* device, DeviceStream stream, bool quick,
                               const std::function<absl::Status()>& work) {
  constexpr int kTimes = 10;
  HGA_RETURN_IF_ERROR(work());
  HGA_RETURN_IF_ERROR(device->Synchronize(stream));
  std::vector<double> samples;
  for (int round = 0; round < (quick ? 3 : 11); ++round) {
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kTimes; ++i) HGA_RETURN_IF_ERROR(work());
    HGA_RETURN_IF_ERROR(device->Synchronize(stream));
    samples.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / kTimes);
  }
  return Quantile(&samples, 0.5);
}

// Device memory, host memory and what lies where, for gather and attention.
struct Buffers {
  PinnedBuffer host;
  DeviceBuffer device, entries, items, runs, q, positions, states;
};

absl::Status Upload(Device* device, const void* from, size_t bytes, void* to) {
  HGA_ASSIGN_OR_RETURN(PinnedBuffer pinned, PinnedBuffer::Allocate(device, bytes));
  std::memcpy(pinned.as(), from, bytes);
  HGA_RETURN_IF_ERROR(device->CopyToDevice(DeviceStream::kCompute, to, pinned.as(), bytes));
  return device->Synchronize(DeviceStream::kCompute);
}

template <typename T>
absl::StatusOr<DeviceBuffer> OnDevice(Device* device, DeviceMemory* memory, const std::vector<T>& values) {
  HGA_ASSIGN_OR_RETURN(DeviceBuffer buffer, memory->Allocate(DeviceUse::kWorkspace, values.size() * sizeof(T)));
  HGA_RETURN_IF_ERROR(Upload(device, values.data(), values.size() * sizeof(T), buffer.as()));
  return buffer;
}

absl::Status MeasureGather(Device* device, const ModelConfig& c, const Buffers& b, KvDtype dtype, double bus,
                           bool quick, DeviceMemory* memory, Report* report) {
  KvGeometry g = c.Geometry();
  g.dtype = dtype;
  const bool int8 = dtype == KvDtype::kInt8;
  const size_t elements = size_t{kUnitTokens} * c.head_dim, on_device = 2 * elements * sizeof(bf16);
  const size_t unit_bytes = kUnitTokens * g.row_bytes() * (int8 ? 1 : 2);
  const auto units = static_cast<uint32_t>(b.host.bytes() / on_device / 4);
  std::mt19937 random(1);
  std::vector<GatherEntry> entries(units);
  for (uint32_t i = 0; i < units; ++i) {  // from anywhere
    const auto* from = static_cast<const uint8_t*>(
        device->Mapped(b.host.as() + random() % (b.host.bytes() / unit_bytes) * unit_bytes, unit_bytes));
    bf16* to = b.device.as<bf16>() + i * 2 * elements;
    entries[i] = {from, int8 ? from : from + unit_bytes / 2, to, to + elements, kUnitTokens, 0};
  }
  HGA_ASSIGN_OR_RETURN(DeviceBuffer list, OnDevice(device, memory, entries));
  const uint32_t shared = int8 ? 4 * kGatherStageBytes : 0;
  HGA_ASSIGN_OR_RETURN(const double seconds, Seconds(device, DeviceStream::kCopy, quick, [&] {
                         return device->Launch(DeviceStream::kCopy, {(units + 3) / 4, 1, 128, shared},
                                               GatherArgs{list.as<GatherEntry>(), units, c.head_dim, int8});
                       }));
  const double rate = static_cast<double>(units * unit_bytes) / seconds / 1e9;
  const std::string key = int8 ? "gather_int8" : "gather";
  report->Add(key + "_gbps", absl::StrCat("gather of ", unit_bytes, "-byte units of ", KvDtypeName(dtype),
                                          " from host memory"), rate, "GB/s");
  report->Add(key + "_of_bus", "  of the bus", rate / bus, "");
  return absl::OkStatus();
}

// One decoding row over all that lies in b.device, as the backend cuts it into parts.
absl::Status MeasureAttention(Device* device, const ModelConfig& c, const Buffers& b, double memory_rate, bool quick,
                              DeviceMemory* memory, Report* report) {
  const size_t elements = size_t{kUnitTokens} * c.head_dim;
  const auto units = static_cast<uint32_t>(b.device.bytes() / (2 * elements * sizeof(bf16)) / c.kv_heads * c.kv_heads);
  const uint32_t per_head = c.query_heads / c.kv_heads, runs_per_part = 8;
  std::vector<DeviceRun> runs;
  std::vector<AttendItem> items;
  for (uint32_t i = 0; i < units; ++i) {
    const bf16* k = b.device.as<bf16>() + i * 2 * elements;
    const uint32_t head = i / (units / c.kv_heads), in_head = i % (units / c.kv_heads);
    runs.push_back({k, k + elements, in_head * kUnitTokens, in_head * kUnitTokens, kUnitTokens, 0, 0});
    if (in_head % runs_per_part != 0) continue;
    for (uint32_t first = 0; first < per_head; first += kFewQueries) {
      const auto part = static_cast<uint32_t>(items.size()) * kFewQueries;
      items.push_back({0, head, first, std::min(kFewQueries, per_head - first), i,
                       std::min(runs_per_part, units / c.kv_heads - in_head), part});
    }
  }
  const size_t states = items.size() * kFewQueries;
  HGA_ASSIGN_OR_RETURN(DeviceBuffer on_runs, OnDevice(device, memory, runs));
  HGA_ASSIGN_OR_RETURN(DeviceBuffer on_items, OnDevice(device, memory, items));
  HGA_ASSIGN_OR_RETURN(DeviceBuffer q, OnDevice(device, memory, std::vector<float>(c.query_heads * c.head_dim, 0.1f)));
  HGA_ASSIGN_OR_RETURN(DeviceBuffer position, OnDevice(device, memory, std::vector<uint32_t>{UINT32_MAX - 1}));
  HGA_ASSIGN_OR_RETURN(DeviceBuffer state, memory->Allocate(DeviceUse::kWorkspace, states * (c.head_dim + 2) * 4));
  AttendFewArgs args{};
  args.q = q.as<float>();
  args.positions = position.as<uint32_t>();
  args.items = on_items.as<AttendItem>();
  args.runs = on_runs.as<DeviceRun>();
  args.m = state.as<float>();
  args.l = args.m + states;
  args.o = args.l + states;
  args.query_heads = c.query_heads;
  args.per_head = per_head;
  args.head_dim = c.head_dim;
  args.scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
  const LaunchShape shape{static_cast<uint32_t>(items.size()), 1, kFewThreads, kFewSharedBytes};
  HGA_ASSIGN_OR_RETURN(const double seconds, Seconds(device, DeviceStream::kCompute, quick, [&] {
                         return device->Launch(DeviceStream::kCompute, shape, args);
                       }));
  const double rate = static_cast<double>(units * 2 * elements * sizeof(bf16)) / seconds / 1e9;
  report->Add("attention_gbps", "routed attention, one row, K/V on the device", rate, "GB/s");
  report->Add("attention_of_memory", "  of the device's memory", rate / memory_rate, "");
  return absl::OkStatus();
}

}  // namespace

absl::Status MeasureBandwidths(Device* device, const ModelConfig& config, bool quick, Report* report) {
  DeviceMemory memory(device, uint64_t{2} << 30);
  const size_t bytes = config.hidden < 512 ? 1 << 18 : size_t{256} << 20;  // far beyond any cache, but in the emulator
  Buffers b;
  HGA_ASSIGN_OR_RETURN(b.host, PinnedBuffer::Allocate(device, bytes));
  std::memset(b.host.as(), 0, bytes);
  HGA_ASSIGN_OR_RETURN(b.device, memory.Allocate(DeviceUse::kWorkspace, bytes));
  HGA_ASSIGN_OR_RETURN(const double copy, Seconds(device, DeviceStream::kCopy, quick, [&] {
                         return device->CopyToDevice(DeviceStream::kCopy, b.device.as(), b.host.as(), bytes);
                       }));
  const double bus = static_cast<double>(bytes) / copy / 1e9;
  report->Add("bus_gbps", "machine: copies from pinned memory", bus, "GB/s");
  const uint64_t count = bytes / 8;  // half of it is added to the other
  HGA_ASSIGN_OR_RETURN(const double add, Seconds(device, DeviceStream::kCompute, quick, [&] {
                         return device->Launch(DeviceStream::kCompute, {device->multiprocessors() * 16, 1, 256, 0},
                                               AddArgs{b.device.as<float>(), b.device.as<float>() + count, count});
                       }));
  const double memory_rate = 1.5 * static_cast<double>(bytes) / add / 1e9;  // reads both halves, writes one
  report->Add("memory_gbps", "machine: device memory, two streams read, one written", memory_rate, "GB/s");
  for (const KvDtype dtype : {KvDtype::kBf16, KvDtype::kInt8}) {
    HGA_RETURN_IF_ERROR(MeasureGather(device, config, b, dtype, bus, quick, &memory, report));
  }
  return MeasureAttention(device, config, b, memory_rate, quick, &memory, report);
}

absl::Status MeasureGemm(Device* device, const LayerWeights& weights, bool quick, Report* report) {
  DeviceMemory memory(device, uint64_t{2} << 30);
  HGA_ASSIGN_OR_RETURN(auto loader, WeightLoader::Create(device, &memory));
  const std::vector<TensorView> parts = {weights.q};
  HGA_ASSIGN_OR_RETURN(const CudaLinear linear, CudaLinear::Create(loader.get(), parts));
  const uint32_t cols = weights.q.cols, outputs = weights.q.rows, most = cols < 512 ? 64 : 1024;
  HGA_ASSIGN_OR_RETURN(DeviceBuffer rounded, memory.Allocate(DeviceUse::kWorkspace, CudaLinear::RoundedBytes(parts)));
  HGA_ASSIGN_OR_RETURN(DeviceBuffer blas, memory.Allocate(DeviceUse::kWorkspace, cols < 512 ? 1 << 16 : 32 << 20));
  HGA_ASSIGN_OR_RETURN(DeviceBuffer x, OnDevice(device, &memory, std::vector<bf16>(size_t{most} * cols, ToBf16(0.5f))));
  HGA_ASSIGN_OR_RETURN(DeviceBuffer y, memory.Allocate(DeviceUse::kWorkspace, size_t{most} * outputs * 4));
  HGA_ASSIGN_OR_RETURN(DeviceBuffer f8, memory.Allocate(DeviceUse::kWorkspace, size_t{most} * cols));
  HGA_ASSIGN_OR_RETURN(DeviceBuffer f8_scales, memory.Allocate(DeviceUse::kWorkspace, size_t{most} * cols / 32));
  HGA_ASSIGN_OR_RETURN(DeviceBuffer probe, memory.Allocate(DeviceUse::kWorkspace, kF8ProbeBytes));
  if (device->has_gemm()) device->SetGemmWorkspace(blas.as(), blas.bytes());
  GemmScratch scratch;
  scratch.rounded_weights = rounded.as<bf16>();
  const bool as_f8 = device->has_f8_gemm() && ProbeF8Gemm(device, probe.as()).ok();
  if (as_f8) scratch = {rounded.as<bf16>(), f8.as(), f8_scales.as<float>(), most};
  report->Add("f8_gemm", "FP8 is multiplied as it is", as_f8 ? 1 : 0, "");
  for (uint32_t rows = 16; rows <= most; rows *= 4) {
    HGA_ASSIGN_OR_RETURN(const double ours, Seconds(device, DeviceStream::kCompute, quick, [&] {
                           return linear.Apply(device, scratch, {nullptr, x.as<bf16>()}, rows, y.as<float>());
                         }));
    const double flops = 2.0 * rows * outputs * cols;
    report->Add(absl::StrCat("fp8_gemm_tflops_", rows), absl::StrCat("FP8 GEMM, ", rows, " rows"), flops / ours / 1e12,
                "TFLOP/s");
    if (!device->has_gemm()) continue;
    GemmCall call;
    call.x = x.as<bf16>();
    call.w = rounded.as<bf16>();
    call.y = y.as<float>();
    call.rows = rows;
    call.outputs = outputs;
    call.cols = cols;
    call.y_stride = outputs;
    HGA_ASSIGN_OR_RETURN(const double alone, Seconds(device, DeviceStream::kCompute, quick, [&] {
                           return device->Gemm(DeviceStream::kCompute, call);
                         }));
    report->Add(absl::StrCat("fp8_gemm_of_cublaslt_", rows), "  of cuBLASLt alone, bf16 weights", alone / ours, "");
  }
  return absl::OkStatus();
}

}  // namespace hga
