// Replacement in the device tier: hit rate against size, for what a real model selects. Generates an answer over a
// document on the cpu backend with an in-process router, notes which K/V each step attends, and replays that through
// the tier's table and, for other policies, through one with lists, at several sizes and units.
//
//   .bazel/bin/tests/bench/tier_replay --model=FILE.gguf --document=FILE.txt [--json=FILE]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/backend/cuda/device_tier.h"
#include "gpu_worker/engine/engine.h"
#include "gpu_worker/model/loaded_model.h"
#include "kv_store/client/memory_kv_client.h"
#include "router/client/local_route_client.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/list_tier.h"
#include "tests/bench/report.h"

ABSL_FLAG(std::string, model, "", "GGUF file");
ABSL_FLAG(std::string, document, "", "text that the prompt is taken from");
ABSL_FLAG(uint32_t, prompt_tokens, 6000, "tokens of the prompt");
ABSL_FLAG(uint32_t, answer_tokens, 96, "tokens of the answer");

namespace hga {
namespace {

// Some keys of one KV head that a decode step attended, of a chunk that does not change any more.
struct Attended {
  uint32_t layer, chunk;
  uint16_t kv_head, first, tokens;
};
using StepTrace = std::vector<std::vector<Attended>>;  // by call of Attend

// Notes what steps of one row attend.
class TracingBackend : public Backend {
 public:
  TracingBackend(std::unique_ptr<Backend> inner, const KvGeometry& geometry)
      : inner_(std::move(inner)), geometry_(geometry) {}

  std::string name() const override { return inner_->name(); }
  uint32_t max_rows() const override { return inner_->max_rows(); }
  uint32_t vocab_size() const override { return inner_->vocab_size(); }
  absl::Status Begin(absl::Span<const BatchRow> rows) override {
    if (rows.size() == 1) steps_.emplace_back();
    noted_ = rows.size() == 1;
    return inner_->Begin(rows);
  }
  absl::Status PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) override {
    layer_ = layer;
    return inner_->PreAttention(layer, kv_rows);
  }
  const bf16* queries() override { return inner_->queries(); }
  absl::Status Attend(const AttendPlan& plan) override {
    if (noted_) Note(plan);
    return inner_->Attend(plan);
  }
  const bf16* GuessQueries(uint32_t layer) override { return inner_->GuessQueries(layer); }
  const float* LogSumExp() override { return inner_->LogSumExp(); }
  absl::Status AddResidual(const float* missed) override { return inner_->AddResidual(missed); }
  absl::Status PostAttention(uint32_t layer) override { return inner_->PostAttention(layer); }
  absl::Status Logits(std::vector<float>* logits) override { return inner_->Logits(logits); }

  const std::vector<StepTrace>& steps() const { return steps_; }

 private:
  void Note(const AttendPlan& plan) {
    std::vector<Attended> call;
    for (const QueryBlock& block : plan.blocks) {
      for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
        for (const KvRun& run : block.runs[head]) {
          const uint32_t chunk = run.position / geometry_.chunk_tokens;
          if (chunk >= block.finished.size()) continue;
          call.push_back({layer_, chunk, static_cast<uint16_t>(head),
                          static_cast<uint16_t>(run.position % geometry_.chunk_tokens), run.tokens});
        }
      }
    }
    steps_.back().push_back(std::move(call));
  }

  const std::unique_ptr<Backend> inner_;
  const KvGeometry geometry_;
  uint32_t layer_ = 0;
  bool noted_ = false;
  std::vector<StepTrace> steps_;
};

absl::Status Answer(Engine* engine, std::vector<uint32_t> prompt) {
  EngineRequest request;
  request.tokens = std::move(prompt);
  request.max_tokens = absl::GetFlag(FLAGS_answer_tokens);
  request.ignore_eos = true;
  HGA_ASSIGN_OR_RETURN(const auto events, engine->Submit(request));
  for (;;) {
    const auto event = events->Next(absl::Seconds(1200));
    if (!event.has_value()) return absl::DeadlineExceededError("the engine does not answer");
    if (event->kind == EngineEvent::Kind::kFailed) return event->status;
    if (event->kind == EngineEvent::Kind::kFinished) return absl::OkStatus();
  }
}

struct Replayed {
  double hit_share = 0;        // of the keys that were asked for
  double fetched_share = 0;    // bytes brought / bytes asked for
  double lookup_ns = 0;        // time of the table, for each lookup
};

// The two tables, told the same.
struct Listed {
  Listed(uint32_t slots, const KvGeometry& g, uint32_t units_per_block, TierPolicy policy)
      : tier({slots, units_per_block, policy}) {}
  void BeginStep(uint64_t batch) { tier.BeginStep(batch); }
  ListTier::Place Use(const BlockName& name, uint32_t unit, uint64_t batch) { return tier.Use(name, unit, batch); }
  ListTier tier;
};
struct Ours {
  Ours(uint32_t slots, const KvGeometry& g, uint32_t units_per_block, TierPolicy)
      : tier({slots, g.layers, units_per_block}) {}
  void BeginStep(uint64_t) { tier.BeginStep(); }
  DeviceTier::Place Use(const BlockName& name, uint32_t unit, uint64_t) {
    uint32_t place;
    std::memcpy(&place, name.chunk.bytes.data(), sizeof(place));
    return tier.Use(tier.FindChunk(name.chunk, place), name.layer, unit);
  }
  DeviceTier tier;
};

template <typename Table>
Replayed Replay(const std::vector<StepTrace>& steps, const KvGeometry& g, uint64_t bytes, uint32_t unit,
                TierPolicy policy) {
  const uint64_t key_bytes = uint64_t{g.head_dim} * 2 * sizeof(bf16);
  Table tier(static_cast<uint32_t>(bytes / (unit * key_bytes)), g, g.kv_heads * (g.chunk_tokens / unit), policy);
  uint64_t batch = 1, asked = 0, hit = 0, fetched = 0;
  uint64_t lookups = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (size_t s = 0; s < steps.size(); ++s) {
    const bool counted = s >= steps.size() / 4;  // until then the tier fills
    tier.BeginStep(batch);
    for (const std::vector<Attended>& call : steps[s]) {
      for (const Attended& a : call) {
        BlockName name;
        name.layer = a.layer;
        for (int i = 0; i < 4; ++i) name.chunk.bytes[i] = static_cast<uint8_t>(a.chunk >> (8 * i));
        for (uint32_t at = a.first; at < uint32_t{a.first} + a.tokens;) {
          const uint32_t tokens = std::min(unit - at % unit, a.first + a.tokens - at);
          const auto place = tier.Use(name, a.kv_head * (g.chunk_tokens / unit) + at / unit, batch);
          ++lookups;
          if (counted) {
            asked += tokens;
            if (place.hit) {
              hit += tokens;
            } else {
              fetched += place.slot == UINT32_MAX ? tokens : unit;
            }
          }
          at += tokens;
        }
      }
      ++batch;
    }
  }
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
  return {static_cast<double>(hit) / static_cast<double>(asked),
          static_cast<double>(fetched) / static_cast<double>(asked), took.count() / static_cast<double>(lookups)};
}

void Compare(const std::vector<StepTrace>& steps, const KvGeometry& g, Report* report) {
  uint64_t keys = 0;
  for (const StepTrace& step : steps) {
    for (const auto& call : step) {
      for (const Attended& a : call) keys += a.tokens;
    }
  }
  const double step_bytes = static_cast<double>(keys) / static_cast<double>(steps.size()) * g.head_dim * 4;
  report->Add("step_mib", absl::StrCat(steps.size(), " steps; K/V that one attends"), step_bytes / (1 << 20), "MiB");
  constexpr std::pair<TierPolicy, const char*> kPolicies[] = {
      {TierPolicy::kFifo, "fifo"}, {TierPolicy::kLru, "lru"}, {TierPolicy::kSieve, "sieve"},
      {TierPolicy::kLruByStep, "lru_by_step"}};
  for (const uint32_t unit : {1u, 4u, 16u}) {
    for (const double size : {0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0}) {
      const auto add = [&](const char* name, const Replayed& r) {
        const std::string at = absl::StrCat(name, "_unit", unit, "_x", size);
        report->Add("hit_" + at, absl::StrCat("unit ", unit, ", ", size, " steps' bytes, ", name, ": hits"),
                    r.hit_share, "");
        report->Add("fetched_" + at, "  brought / asked for", r.fetched_share, "");
        report->Add("lookup_ns_" + at, "  a lookup", r.lookup_ns, "ns");
      };
      const auto bytes = static_cast<uint64_t>(size * step_bytes);
      for (const auto& [policy, name] : kPolicies) add(name, Replay<Listed>(steps, g, bytes, unit, policy));
      add("ours", Replay<Ours>(steps, g, bytes, unit, TierPolicy::kLruByStep));
    }
  }
}

double EarlyUsedShare(const prometheus::Registry& registry) {
  double all = 0, used = 0;
  for (const prometheus::MetricFamily& family : registry.Collect()) {
    if (family.name != "hga_worker_early_keys_total") continue;
    for (const prometheus::ClientMetric& metric : family.metric) {
      all += metric.counter.value;
      for (const auto& label : metric.label) {
        if (label.name == "used" && label.value == "yes") used = metric.counter.value;
      }
    }
  }
  return used / all;
}

absl::Status Run() {
  HGA_ASSIGN_OR_RETURN(const auto model, LoadModel(absl::GetFlag(FLAGS_model)));
  std::ifstream file(absl::GetFlag(FLAGS_document));
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  HGA_ASSIGN_OR_RETURN(std::vector<uint32_t> prompt, model->tokenizer->Encode(text, false));
  if (prompt.size() < absl::GetFlag(FLAGS_prompt_tokens)) {
    return absl::InvalidArgumentError("the document is too short");
  }
  prompt.resize(absl::GetFlag(FLAGS_prompt_tokens));
  EngineModel described;
  described.name = model->weights.config.name;
  described.geometry = model->weights.config.Geometry();
  described.fingerprint = model->fingerprint;
  described.method = *FindSummaryMethod("sketch");
  described.vocab_size = model->weights.config.vocab_size;
  described.context_tokens = model->weights.config.context_tokens;
  described.token_bytes = [](uint32_t) { return std::string(); };
  const KvGeometry g = described.geometry;
  HGA_ASSIGN_OR_RETURN(auto cpu, CreateBackend("cpu", model->weights, g, BackendOptions()));
  TracingBackend backend(std::move(cpu), g);
  MemoryKvClient store(g);
  RouterLink link([g]() -> absl::StatusOr<std::unique_ptr<RouteClient>> {
    return std::make_unique<LocalRouteClient>(g, *FindSummaryMethod("sketch"));
  });
  EngineOptions options;
  options.early_selection = true;  // changes nothing of what is noted here
  const auto registry = std::make_shared<prometheus::Registry>();
  HGA_ASSIGN_OR_RETURN(auto engine, Engine::Start(described, options, &backend, &store, &link, registry));
  HGA_RETURN_IF_ERROR(Answer(engine.get(), std::move(prompt)));
  engine.reset();
  Report report;
  report.Add("early_used_share", "of the keys guessed a layer ahead, selected", EarlyUsedShare(*registry), "");
  Compare(backend.steps(), g, &report);
  return WriteNumbers(report);
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  return hga::ExitCode(hga::Run());
}
