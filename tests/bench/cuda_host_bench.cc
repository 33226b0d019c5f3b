// What the host does for a decode step of the CUDA backend at the shape of Qwen3-30B-A3B: the device tier's table, and
// all of it from a selection to launches, with a device that does nothing. Selections are drawn and drift.
//
//   .bazel/bin/tests/bench/cuda_host_bench [--keys=3276] [--json=FILE]
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/backend/check_rows.h"
#include "gpu_worker/backend/cuda/cuda_attention.h"
#include "gpu_worker/backend/cuda/device_tier.h"
#include "gpu_worker/engine/attend_plan.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/list_tier.h"
#include "tests/bench/report.h"

ABSL_FLAG(uint32_t, context, 32768, "tokens before the step's");
ABSL_FLAG(uint32_t, keys, 3276, "that a KV head of a layer selects");
ABSL_FLAG(double, drift, 0.15, "share of a selection that is another in the next step");
ABSL_FLAG(uint32_t, steps, 24, "that are measured");
ABSL_FLAG(uint64_t, tier_bytes, uint64_t{1} << 30, "of the device tier");

namespace hga {
namespace {

constexpr uint32_t kUnit = 4;

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

class NoDevice : public Device {
 public:
  std::string name() const override { return "none"; }
  uint32_t multiprocessors() const override { return 1; }
  size_t free_bytes() const override { return SIZE_MAX; }
  absl::StatusOr<void*> Allocate(size_t bytes) override { return std::malloc(bytes); }
  void Free(void* memory) override { std::free(memory); }
  absl::StatusOr<void*> AllocatePinned(size_t bytes) override { return std::malloc(bytes); }
  void FreePinned(void* memory) override { std::free(memory); }
  absl::Status RegisterHost(const void*, size_t) override { return absl::OkStatus(); }
  void UnregisterHost(const void*) override {}
  MappedMemory MappedAround(const void* memory) const override {
    return {static_cast<const uint8_t*>(memory), SIZE_MAX / 2, static_cast<const uint8_t*>(memory)};
  }
  absl::Status CopyToDevice(DeviceStream, void*, const void*, size_t) override { return absl::OkStatus(); }
  absl::Status CopyToHost(DeviceStream, void*, const void*, size_t) override { return absl::OkStatus(); }
  absl::StatusOr<DeviceEvent> NewEvent() override { return DeviceEvent{}; }
  absl::Status Record(DeviceEvent, DeviceStream) override { return absl::OkStatus(); }
  absl::Status Wait(DeviceStream, DeviceEvent) override { return absl::OkStatus(); }
  absl::Status Synchronize(DeviceEvent) override { return absl::OkStatus(); }
  absl::Status Synchronize(DeviceStream) override { return absl::OkStatus(); }
  absl::Status BeginCapture(DeviceStream) override { return absl::OkStatus(); }
  absl::StatusOr<DeviceGraph> EndCapture() override { return DeviceGraph{}; }
  absl::Status LaunchGraph(DeviceStream, DeviceGraph) override { return absl::OkStatus(); }
  bool has_gemm() const override { return false; }
  void SetGemmWorkspace(void*, size_t) override {}
  absl::Status Gemm(DeviceStream, const GemmCall&) override { return absl::OkStatus(); }
  bool has_f8_gemm() const override { return false; }
  absl::Status F8Gemm(DeviceStream, const F8GemmCall&) override { return absl::OkStatus(); }

 protected:
  absl::Status LaunchKernel(DeviceStream, KernelId, const LaunchShape&, const void*, size_t) override {
    return absl::OkStatus();
  }
};

KvGeometry Shape(KvDtype dtype) {
  KvGeometry g;
  g.dtype = dtype;
  g.layers = 48;
  g.query_heads = 32;
  g.kv_heads = 4;
  g.head_dim = 128;
  return g;
}

// What every KV head of every layer selects, from step to step.
class Selections {
 public:
  Selections(const KvGeometry& g, uint32_t chunks) : g_(g), chunks_(chunks) {
    for (uint32_t i = 0; i < g.layers * g.kv_heads; ++i) {
      masks_.emplace_back(chunks, 0);
      for (uint32_t keys = absl::GetFlag(FLAGS_keys), had = 0; had < keys;) had += AddRun(&masks_.back());
    }
  }
  void Drift() {
    const auto others = static_cast<uint32_t>(absl::GetFlag(FLAGS_drift) * absl::GetFlag(FLAGS_keys));
    for (auto& masks : masks_) {
      for (uint32_t lost = 0; lost < others;) {
        uint64_t& mask = masks[random_() % chunks_];
        if (mask == 0) continue;
        mask &= mask - 1;
        ++lost;
      }
      for (uint32_t had = 0; had < others;) had += AddRun(&masks);
    }
  }
  std::vector<HeadSelection> Of(uint32_t layer) const {
    std::vector<HeadSelection> heads(g_.kv_heads);
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      const auto& masks = masks_[layer * g_.kv_heads + h];
      for (uint32_t c = 0; c < chunks_; ++c) {
        if (masks[c] != 0) heads[h].push_back({c, 0, masks[c]});
      }
    }
    return heads;
  }

 private:
  // One to four keys side by side; returns how many are new.
  uint32_t AddRun(std::vector<uint64_t>* masks) {
    uint64_t& mask = (*masks)[random_() % chunks_];
    const uint64_t run = ((uint64_t{1} << (1 + random_() % 4)) - 1) << random_() % 61;
    const auto more = static_cast<uint32_t>(__builtin_popcountll(run & ~mask));
    mask |= run;
    return more;
  }

  const KvGeometry g_;
  const uint32_t chunks_;
  std::mt19937 random_{5};
  std::vector<std::vector<uint64_t>> masks_;  // [layers * kv_heads][chunks]
};

using Units = std::vector<std::pair<uint32_t, uint32_t>>;  // chunk, and unit of its block

// The two tables, told the same.
struct Listed {
  explicit Listed(uint32_t slots, const KvGeometry& g)
      : tier({slots, g.kv_heads * (g.chunk_tokens / kUnit), TierPolicy::kLruByStep}) {}
  void BeginStep() { tier.BeginStep(batch); }
  // What a KV head selects, as chunks and units of a block.
  uint64_t UseAll(const std::vector<ChunkHash>& names, uint32_t layer, const Units& units) {
    uint64_t hits = 0;
    for (const auto& [chunk, unit] : units) hits += tier.Use({names[chunk], layer}, unit, batch).hit;
    ++batch;
    return hits;
  }
  ListTier tier;
  uint64_t batch = 1;
};
struct Ours {
  explicit Ours(uint32_t slots, const KvGeometry& g)
      : tier({slots, g.layers, g.kv_heads * (g.chunk_tokens / kUnit)}) {}
  void BeginStep() { tier.BeginStep(); }
  uint64_t UseAll(const std::vector<ChunkHash>& names, uint32_t layer, const Units& units) {
    numbers.clear();
    for (const auto& [chunk, unit] : units) {
      numbers.push_back(tier.FindChunk(names[chunk], chunk));
      tier.PrepareUse(numbers.back(), layer, unit);
    }
    uint64_t hits = 0;
    for (size_t i = 0; i < units.size(); ++i) hits += tier.Use(numbers[i], layer, units[i].second).hit;
    return hits;
  }
  DeviceTier tier;
  std::vector<uint32_t> numbers;
};

class HostBench {
 public:
  explicit HostBench(KvDtype dtype)
      : g_(Shape(dtype)), chunks_(absl::GetFlag(FLAGS_context) / g_.chunk_tokens), block_(g_.block_bytes()) {
    for (uint32_t c = 0; c < chunks_; ++c) names_.push_back(HashBytes(absl::StrCat(c)));
    plan_.blocks[0].finished = names_;
  }

  absl::Status Run(Report* report) {
    const bool int8 = g_.dtype == KvDtype::kInt8;
    if (!int8) {
      HGA_RETURN_IF_ERROR(MeasureTable<Listed>("list_", "table with lists", report));
      HGA_RETURN_IF_ERROR(MeasureTable<Ours>("", "device tier's table", report));
    }
    return MeasureAttend(int8 ? "int8_" : "", report);
  }

 private:
  double PerToken(double seconds) const { return seconds / absl::GetFlag(FLAGS_steps) * 1e3; }

  // Runs steps until each KV head's selection has become another; `layer` is given what a layer selects.
  absl::Status Steps(const std::function<void()>& begin, const std::function<absl::Status(uint32_t layer)>& layer) {
    Selections selections(g_, chunks_);
    for (uint32_t step = 0; step < absl::GetFlag(FLAGS_steps) + kWarm; ++step) {
      counts_ = step >= kWarm;
      selections.Drift();
      begin();
      for (uint32_t l = 0; l < g_.layers; ++l) {
        const std::vector<HeadSelection> selected = selections.Of(l);
        const double start = Now();
        PlanRouted(shape_, 0, 1, selected, [this](uint32_t) { return block_.data(); }, &plan_.blocks[0]);
        if (counts_) plan_seconds_ += Now() - start;
        HGA_RETURN_IF_ERROR(layer(l));
      }
    }
    return absl::OkStatus();
  }

  template <typename Table>
  absl::Status MeasureTable(const std::string& key, const std::string& what, Report* report) {
    Table table(static_cast<uint32_t>(absl::GetFlag(FLAGS_tier_bytes) / (kUnit * g_.head_dim * 2 * sizeof(bf16))), g_);
    double seconds = 0, units = 0, hits = 0;
    HGA_RETURN_IF_ERROR(Steps([&] { table.BeginStep(); }, [&](uint32_t layer) {
      uint64_t used = 0, found = 0;
      double took = 0;
      for (uint32_t h = 0; h < g_.kv_heads; ++h) {
        const Units touched = UnitsOf(h);
        const double start = Now();
        found += table.UseAll(names_, layer, touched);
        took += Now() - start;
        used += touched.size();
      }
      if (!counts_) return absl::OkStatus();
      seconds += took;
      units += static_cast<double>(used);
      hits += static_cast<double>(found);
      return absl::OkStatus();
    }));
    report->Add(key + "units_per_token", what + ": look-ups of a token", units / absl::GetFlag(FLAGS_steps), "");
    report->Add(key + "hit_share", "  hits", hits / units, "");
    report->Add(key + "lookup_ns", "  a look-up", seconds / units * 1e9, "ns");
    report->Add(key + "ms_per_token", "  of a token", PerToken(seconds), "ms");
    return absl::OkStatus();
  }

  absl::Status MeasureAttend(const std::string& key, Report* report) {
    NoDevice device;
    DeviceMemory memory(&device, uint64_t{8} << 30);
    CudaAttentionOptions options;
    options.max_rows = 8;
    options.tier_bytes = absl::GetFlag(FLAGS_tier_bytes);
    options.tier_unit_tokens = kUnit;
    options.batch.first_part_state = 8 * g_.query_heads;
    options.batch.part_states = 8192;
    HGA_ASSIGN_OR_RETURN(auto attention, CudaAttention::Create(&device, &memory, g_, options));
    double check = 0, attend = 0;
    plan_seconds_ = 0;
    HGA_RETURN_IF_ERROR(Steps([&] { attention->BeginStep(); }, [&](uint32_t layer) {
      const double start = Now();
      HGA_RETURN_IF_ERROR(CheckPlan(g_, plan_, 1));
      const double checked = Now();
      HGA_RETURN_IF_ERROR(attention->Attend(layer, plan_, Workspace{}));
      if (!counts_) return absl::OkStatus();
      check += checked - start;
      attend += Now() - checked;
      return absl::OkStatus();
    }));
    const std::string type = KvDtypeName(g_.dtype);
    report->Add(key + "plan_ms_per_token", type + ", engine: selections to runs, for a token", PerToken(plan_seconds_),
                "ms");
    report->Add(key + "check_ms_per_token", "  backend: checking them", PerToken(check), "ms");
    report->Add(key + "attend_ms_per_token", "  backend: runs to launches", PerToken(attend), "ms");
    return absl::OkStatus();
  }

  Units UnitsOf(uint32_t kv_head) const {
    Units units;
    for (const KvRun& run : plan_.blocks[0].runs[kv_head]) {
      const uint32_t chunk = run.position / g_.chunk_tokens, first = run.position % g_.chunk_tokens;
      for (uint32_t unit = first / kUnit; unit <= (first + run.tokens - 1) / kUnit; ++unit) {
        units.emplace_back(chunk, kv_head * (g_.chunk_tokens / kUnit) + unit);
      }
    }
    return units;
  }

  static constexpr uint32_t kWarm = 6;  // steps until the tier is full
  const KvGeometry g_;
  const uint32_t chunks_;
  const AttendShape shape_{g_, 16, 1};
  std::vector<uint8_t> block_;
  std::vector<ChunkHash> names_;
  AttendPlan plan_{std::vector<QueryBlock>(1), false};
  bool counts_ = false;
  double plan_seconds_ = 0;
};

absl::Status Run() {
  Report report;
  for (const KvDtype dtype : {KvDtype::kBf16, KvDtype::kInt8}) HGA_RETURN_IF_ERROR(HostBench(dtype).Run(&report));
  return WriteNumbers(report);
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  return hga::ExitCode(hga::Run());
}
