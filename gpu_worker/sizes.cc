#include "gpu_worker/sizes.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/kv/summary.h"
#include "gpu_worker/memory_plan.h"

namespace hga {
namespace {

constexpr uint64_t kKi = 1024;

struct Shape {
  uint32_t layers, hidden, ffn, query_heads, kv_heads, head_dim, vocab_size;
};

ModelConfig Config(const std::string& name, const Shape& s, bool qk_norm) {
  ModelConfig c;
  c.name = name;
  c.layers = s.layers;
  c.hidden = s.hidden;
  c.ffn = s.ffn;
  c.query_heads = s.query_heads;
  c.kv_heads = s.kv_heads;
  c.head_dim = s.head_dim;
  c.vocab_size = s.vocab_size;
  c.qk_norm = qk_norm;
  return c;
}

KnownModel Qwen3Moe() {
  KnownModel m;
  m.config = Config("Qwen3-30B-A3B-FP8", {48, 2048, 0, 32, 4, 128, 151936}, true);
  m.config.experts = 128;
  m.config.experts_per_token = 8;
  m.config.expert_ffn = 768;
  m.fp8 = true;
  m.contexts = {64 * kKi, 256 * kKi, 1024 * kKi};
  return m;
}

// Of the matrices that FP8 checkpoints hold in FP8.
uint64_t MatrixParameters(const ModelConfig& c) {
  const uint64_t q = uint64_t{c.query_heads} * c.head_dim, kv = uint64_t{c.kv_heads} * c.head_dim;
  const uint64_t mlp = 3 * uint64_t{c.hidden} * (c.experts > 0 ? uint64_t{c.experts} * c.expert_ffn : c.ffn);
  return c.layers * (c.hidden * (2 * q + 2 * kv) + mlp);
}

std::string GiB(uint64_t bytes) {
  const double value = static_cast<double>(bytes) / (1 << 30);
  return absl::StrFormat(value < 10 ? "%.2f" : "%.0f", value);
}

}  // namespace

uint64_t KnownModel::parameters() const {
  const ModelConfig& c = config;
  const uint64_t embedding = uint64_t{c.vocab_size} * c.hidden;
  const uint64_t norms = 2 * uint64_t{c.hidden} + (c.qk_norm ? 2 * c.head_dim : 0);
  const uint64_t gate = uint64_t{c.hidden} * c.experts;
  return embedding * (tied_output ? 1 : 2) + MatrixParameters(c) + c.layers * (norms + gate) + c.hidden;
}

// Nobody reads through the views.
ModelWeights KnownModel::shapes() const {
  static const uint8_t nothing = 0;
  const ModelConfig& c = config;
  const uint32_t q = c.query_heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  const auto rounded = [&](uint32_t rows, uint32_t cols) {
    return TensorView{TensorType::kBF16, rows, cols, &nothing, nullptr};
  };
  const auto matrix = [&](uint32_t rows, uint32_t cols) {
    return TensorView{fp8 ? TensorType::kF8E4M3 : TensorType::kBF16, rows, cols, &nothing, nullptr};
  };
  ModelWeights weights;
  weights.config = c;
  weights.embedding = weights.output = rounded(c.vocab_size, c.hidden);
  weights.output_norm = rounded(1, c.hidden);
  LayerWeights w;
  w.attn_norm = w.ffn_norm = rounded(1, c.hidden);
  if (c.qk_norm) w.q_norm = w.k_norm = rounded(1, c.head_dim);
  w.q = matrix(q, c.hidden);
  w.k = w.v = matrix(kv, c.hidden);
  w.attn_output = matrix(c.hidden, q);
  if (c.experts > 0) {
    w.expert_router = rounded(c.experts, c.hidden);
    w.expert_gate.assign(c.experts, matrix(c.expert_ffn, c.hidden));
    w.expert_up = w.expert_gate;
    w.expert_down.assign(c.experts, matrix(c.hidden, c.expert_ffn));
  } else {
    w.ffn_gate = w.ffn_up = matrix(c.ffn, c.hidden);
    w.ffn_down = matrix(c.hidden, c.ffn);
  }
  weights.layers.assign(c.layers, w);
  return weights;
}

const std::vector<KnownModel>& KnownModels() {
  static const auto* const models = new std::vector<KnownModel>{
      {Config("SmolLM2-135M", {30, 576, 1536, 9, 3, 64, 49152}, false), true, false, {8 * kKi}},
      {Config("Qwen3-0.6B", {28, 1024, 3072, 16, 8, 128, 151936}, true), true, false, {32 * kKi}},
      {Config("Qwen3-8B", {36, 4096, 12288, 32, 8, 128, 151936}, true), false, false, {32 * kKi, 128 * kKi}},
      Qwen3Moe()};
  return *models;
}

absl::Status WriteSizes(const EngineOptions& engine, uint64_t device_summaries, std::ostream& out) {
  HGA_ASSIGN_OR_RETURN(const SummaryMethod* method, FindSummaryMethod(engine.summary_method));
  out << "| model | context | weights | K/V, RAM or disk | summaries, RAM | GPU memory | with all K/V on the GPU |\n"
         "|---|---|---|---|---|---|---|\n";
  for (const KnownModel& model : KnownModels()) {
    for (const uint64_t context : model.contexts) {
      const MemoryPlan plan = PlanMemory(model.shapes(), *method, engine, context, device_summaries);
      const uint64_t dense = plan.required() - plan.window - plan.summaries + plan.kv_store;
      out << absl::StrFormat("| %s | %dK | %s | %s | %s | %s | %s |\n", model.config.name, context / kKi,
                             GiB(plan.weights), GiB(plan.kv_store), GiB(plan.router), GiB(plan.required()), GiB(dense));
    }
  }
  out << std::flush;
  return absl::OkStatus();
}

}  // namespace hga
