// Benchmark `cuda`: the CUDA backend at the shape of Qwen3-30B-A3B FP8 with made-up weights, K/V in the host's memory.
// Selections are drawn, not routed: no router process and no kv_store take part.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/backend/cuda/cuda_backend.h"
#include "gpu_worker/backend/cuda/simulated_device.h"
#include "tests/bench/cuda_kernels.h"
#include "tests/bench/cuda_selection.h"
#include "tests/bench/cuda_steps.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/report.h"
#include "tests/bench/synthetic_model.h"
#ifdef HGA_CUDA
#include "gpu_worker/backend/cuda/nvidia_device.h"
#endif

ABSL_FLAG(bool, quick, false, "fewer contexts and repetitions");
ABSL_FLAG(std::vector<std::string>, parts,
          std::vector<std::string>({"kernels", "selection", "decode", "prefill", "dense"}), "what is measured");
ABSL_FLAG(std::vector<std::string>, contexts, {}, "of 1k, 32k, 64k, 256k, 1m; default: all, with --quick up to 64k");
ABSL_FLAG(bool, in_place, true, "decoding rows read K/V in the host's memory; false: by way of the device tier");
ABSL_FLAG(uint32_t, held_tokens, 0,
          "K/V of so many tokens is in memory, and stands for all of a longer context; 0: of all tokens");
ABSL_FLAG(std::string, kv_dtype, "bf16", "of the K/V in host memory: bf16 or int8");
ABSL_FLAG(uint32_t, batch, 512, "tokens of a prefill step");
ABSL_FLAG(uint64_t, device_memory_limit, 32000000000, "bytes of device memory");
ABSL_FLAG(bool, simulated, false,
          "a tiny model on the simulated device: shows that the benchmark runs, measures nothing");

namespace hga {
namespace {

absl::StatusOr<std::unique_ptr<Device>> OpenDevice(bool simulated) {
  if (simulated) {
    SimulatedDeviceOptions options;
    options.bytes = uint64_t{64} << 20;
    return std::unique_ptr<Device>(std::make_unique<SimulatedDevice>(options));
  }
#ifdef HGA_CUDA
  return OpenNvidiaDevice();
#else
  return absl::FailedPreconditionError("built without CUDA: bazel build --config=cuda //tests/bench:cuda_bench");
#endif
}

bool Names(const std::vector<std::string>& list, const char* name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

bool Measures(const char* part) { return Names(absl::GetFlag(FLAGS_parts), part); }

struct Context {
  const char* name;
  uint32_t tokens;
};

KvGeometry GeometryOf(const ModelConfig& config, KvDtype dtype) {
  KvGeometry geometry = config.Geometry();
  geometry.dtype = dtype;
  return geometry;
}

class CudaBench {
 public:
  CudaBench(KvDtype dtype, bool simulated, bool quick)
      : simulated_(simulated), quick_(quick), config_(simulated ? TinyMoe() : Qwen3Moe30b()), model_(config_),
        geometry_(GeometryOf(config_, dtype)), batch_(simulated ? 128 : absl::GetFlag(FLAGS_batch)) {}

  absl::Status Run(Report* report) {
    HGA_RETURN_IF_ERROR(geometry_.Validate());
    HGA_ASSIGN_OR_RETURN(auto device, OpenDevice(simulated_));
    std::printf("device: %s\n", device->name().c_str());
    if (Measures("kernels")) {
      HGA_RETURN_IF_ERROR(MeasureBandwidths(device.get(), config_, quick_, report));
      HGA_RETURN_IF_ERROR(MeasureGemm(device.get(), model_.weights().layers[0], quick_, report));
    }
    if (Measures("selection")) HGA_RETURN_IF_ERROR(Selections(device.get(), report));
    if (!Measures("decode") && !Measures("prefill") && !Measures("dense")) return absl::OkStatus();
    CudaBackendOptions options;
    options.max_rows = batch_;
    options.in_place = absl::GetFlag(FLAGS_in_place);
    options.device_memory_limit = simulated_ ? uint64_t{48} << 20 : absl::GetFlag(FLAGS_device_memory_limit);
    if (simulated_) options.gemm_bytes = 0;
    const uint64_t free_before = device->free_bytes();
    const Device* const opened = device.get();
    HGA_ASSIGN_OR_RETURN(backend_, CudaBackend::Create(std::move(device), model_.weights(), geometry_, options));
    std::printf("%s", DescribePlan(backend_->plan()).c_str());
    report->Add("device_tier_bytes", "device tier", static_cast<double>(backend_->plan().tier), "bytes");
    double at_1k = 0;
    for (const Context& context : Contexts()) {
      const absl::Status status = Measure(context, &at_1k, report);
      report->Add(absl::StrCat("device_bytes_", context.name), "  device memory taken",
                  static_cast<double>(free_before - opened->free_bytes()), "bytes");
      if (absl::IsResourceExhausted(status)) {
        std::printf("  %s left out: %s\n", context.name, std::string(status.message()).c_str());
        continue;
      }
      HGA_RETURN_IF_ERROR(status);
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Selections(Device* device, Report* report) {
    for (const uint32_t tokens : simulated_ ? std::vector<uint32_t>{2048} : std::vector<uint32_t>{32768, 65536}) {
      const absl::Status status = MeasureSelection(device, config_, tokens, quick_, report);
      if (!absl::IsUnimplemented(status)) HGA_RETURN_IF_ERROR(status);
      if (!status.ok()) std::printf("  selection left out: %s\n", std::string(status.message()).c_str());
    }
    return absl::OkStatus();
  }

  std::vector<Context> Contexts() const {
    if (simulated_) return {{"1k", 1024}, {"2k", 2048}};
    const std::vector<std::string> wanted = absl::GetFlag(FLAGS_contexts);
    std::vector<Context> contexts;
    for (const Context& c : {Context{"1k", 1024}, Context{"32k", 32768}, Context{"64k", 65536}, Context{"256k", 262144},
                             Context{"1m", 1 << 20}}) {
      if (Names(wanted, c.name) || (wanted.empty() && !(quick_ && c.tokens > 65536))) contexts.push_back(c);
    }
    return contexts;
  }

  absl::Status Measure(const Context& context, double* at_1k, Report* report) {
    BenchArena arena;
    const uint32_t held = absl::GetFlag(FLAGS_held_tokens);
    HGA_RETURN_IF_ERROR(arena.Make(geometry_, held > 0 ? std::min(held, context.tokens) : context.tokens));
    const absl::Status registered = backend_->RegisterKv(arena.data(), arena.bytes());
    if (!registered.ok()) std::printf("  not registered: %s\n", std::string(registered.message()).c_str());
    absl::Status status;
    if (Measures("decode")) status = Decode(context, arena, at_1k, report);
    if (status.ok()) status = Prefill(context, arena, report);
    if (registered.ok()) backend_->UnregisterKv(arena.data());
    return status;
  }

  // As the engine's budget: 3% of the context, 512 to 4096 keys.
  StepOptions Routed(uint32_t tokens) const {
    StepOptions options;
    options.selected_keys = std::clamp<uint32_t>(tokens * 3 / 100, 512, 4096);
    return options;
  }

  absl::Status Decode(const Context& context, const BenchArena& arena, double* at_1k, Report* report) {
    BenchSteps steps(backend_.get(), geometry_, &arena, Routed(context.tokens));
    const int warm = simulated_ ? 2 : 8, measured = simulated_ ? 2 : quick_ ? 16 : 64;
    for (int i = 0; i < warm; ++i) HGA_RETURN_IF_ERROR(steps.Run(context.tokens - 1, 1).status());
    const DeviceTierUse before = backend_->device_tier_use();
    StepTimes sum;
    for (int i = 0; i < measured; ++i) {
      HGA_ASSIGN_OR_RETURN(const StepTimes times, steps.Run(context.tokens - 1, 1));
      sum.Add(times);
    }
    const DeviceTierUse after = backend_->device_tier_use();
    const double rate = measured / sum.total, hits = static_cast<double>(after.hit_bytes - before.hit_bytes);
    const double fetched = static_cast<double>(after.fetched_bytes - before.fetched_bytes);
    if (context.tokens == 1024) *at_1k = rate;
    const std::string at = context.name;
    report->Add("decode_tokens_per_s_" + at, "decode at " + at, rate, "tokens/s");
    if (*at_1k > 0) report->Add("decode_of_1k_" + at, "  of that at 1k", rate / *at_1k, "");
    report->Add("tier_hit_share_" + at, "  bytes found on the device", hits / std::max(1.0, hits + fetched), "");
    report->Add("fetched_mb_per_token_" + at, "  fetched for a token", fetched / measured / 1e6, "MB");
    AddTimes("decode", at, measured, sum, report);
    return absl::OkStatus();
  }

  void AddTimes(const char* what, const std::string& at, int steps, const StepTimes& sum, Report* report) const {
    const auto row = [&](const char* key, const char* text, double seconds) {
      report->Add(absl::StrCat(what, "_ms_", key, "_", at), text, seconds / steps * 1e3, "ms");
    };
    row("compute", "  compute: waiting for projections, experts", sum.compute);
    row("window", "  launching attention of the window", sum.attend_always);
    row("sums", "  waiting for it, and its log-sum-exp", sum.log_sum_exp);
    row("gather", "  table, gather and launch of what was selected", sum.attend_selected);
    row("launch", "  launching the rest of the layer", sum.post_attention);
    row("logits", "  logits", sum.logits);
  }

  // Of some steps, each in the middle of one of as many equal parts of the prompt.
  absl::Status Prefill(const Context& context, const BenchArena& arena, const StepOptions& options, const char* what,
                       double* rate, Report* report) {
    const uint32_t tokens = std::max(context.tokens, batch_), samples = std::min(quick_ ? 4u : 8u, tokens / batch_);
    BenchSteps steps(backend_.get(), geometry_, &arena, options);
    StepTimes sum;
    for (uint32_t i = 0; i < samples; ++i) {
      const uint32_t position = static_cast<uint32_t>((2 * uint64_t{i} + 1) * tokens / (2 * samples)) / batch_ * batch_;
      HGA_RETURN_IF_ERROR(steps.Run(position, batch_).status());
      HGA_ASSIGN_OR_RETURN(const StepTimes times, steps.Run(position, batch_));
      sum.Add(times);
    }
    *rate = samples * batch_ / sum.total;
    report->Add(absl::StrCat(what, "_tokens_per_s_", context.name), absl::StrCat(what, " of ", context.name), *rate,
                "tokens/s");
    AddTimes(what, context.name, static_cast<int>(samples), sum, report);
    return absl::OkStatus();
  }

  absl::Status Prefill(const Context& context, const BenchArena& arena, Report* report) {
    double routed = 0, dense = 0;
    if (Measures("prefill")) {
      HGA_RETURN_IF_ERROR(Prefill(context, arena, Routed(context.tokens), "prefill", &routed, report));
    }
    if (!Measures("dense")) return absl::OkStatus();
    StepOptions all;
    all.dense = true;
    HGA_RETURN_IF_ERROR(Prefill(context, arena, all, "prefill_dense", &dense, report));
    if (routed > 0) {
      report->Add(absl::StrCat("prefill_of_dense_", context.name), "  routed against dense", routed / dense, "");
    }
    return absl::OkStatus();
  }

  const bool simulated_, quick_;
  const ModelConfig config_;
  const SyntheticModel model_;
  const KvGeometry geometry_;
  const uint32_t batch_;
  std::unique_ptr<CudaBackend> backend_;
};

int Run() {
  const absl::StatusOr<KvDtype> dtype = ParseKvDtype(absl::GetFlag(FLAGS_kv_dtype));
  if (!dtype.ok()) return ExitCode(dtype.status());
  Report report;
  CudaBench bench(*dtype, absl::GetFlag(FLAGS_simulated), absl::GetFlag(FLAGS_quick));
  absl::Status status = bench.Run(&report);
  if (status.ok()) status = WriteNumbers(report);
  return ExitCode(status);
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  return hga::Run();
}
