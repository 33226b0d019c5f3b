#include "gpu_worker/backend/cpu/mlp.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/base/status.h"
#include "gpu_worker/backend/cpu/kernels.h"

namespace hga {
namespace {

void Grow(std::vector<float>* buffer, size_t size) {
  if (buffer->size() < size) buffer->resize(size);
}

// Rows of a batch that go to one expert.
struct ExpertRows {
  std::vector<uint32_t> rows;
  std::vector<float> weights;
};

}  // namespace

absl::StatusOr<CpuMlp::Gated> CpuMlp::CreateGated(const TensorView& gate, const TensorView& up, const TensorView& down,
                                                  bool gemm) const {
  Gated mlp;
  mlp.width = gate.rows;
  HGA_ASSIGN_OR_RETURN(mlp.gate_up, Linear::Create(context_, {gate, up}, gemm));
  HGA_ASSIGN_OR_RETURN(mlp.down, Linear::Create(context_, {down}, gemm));
  return mlp;
}

absl::StatusOr<CpuMlp> CpuMlp::Create(std::shared_ptr<LinearContext> context, const ModelConfig& config,
                                      const LayerWeights& w) {
  CpuMlp mlp;
  mlp.context_ = std::move(context);
  if (config.experts == 0) {
    HGA_ASSIGN_OR_RETURN(Gated dense, mlp.CreateGated(w.ffn_gate, w.ffn_up, w.ffn_down, true));
    mlp.gated_.push_back(std::move(dense));
    return mlp;
  }
  HGA_ASSIGN_OR_RETURN(mlp.router_, Linear::Create(mlp.context_, {w.expert_router}, false));
  for (uint32_t e = 0; e < config.experts; ++e) {
    HGA_ASSIGN_OR_RETURN(Gated expert,
                         mlp.CreateGated(w.expert_gate[e], w.expert_up[e], w.expert_down[e], false));
    mlp.gated_.push_back(std::move(expert));
  }
  return mlp;
}

absl::Status CpuMlp::Apply(const ModelConfig& config, const float* x, uint32_t rows, MlpScratch* scratch, float* out) {
  return config.experts == 0 ? ApplyGated(&gated_[0], x, rows, scratch, out)
                             : ApplyExperts(config, x, rows, scratch, out);
}

absl::Status CpuMlp::ApplyGated(Gated* mlp, const float* x, uint32_t rows, MlpScratch* s, float* out) {
  const size_t width = mlp->width;
  Grow(&s->gate_up, rows * 2 * width);
  Grow(&s->activated, rows * width);
  HGA_RETURN_IF_ERROR(mlp->gate_up.Apply(x, rows, s->gate_up.data()));
  context_->workers->RunRows(rows, [&](uint32_t r, uint32_t) {
    const float* gate = &s->gate_up[r * 2 * width];
    SiluMultiply(gate, gate + width, width, &s->activated[r * width]);
  });
  return mlp->down.Apply(s->activated.data(), rows, out);
}

absl::Status CpuMlp::ApplyExperts(const ModelConfig& config, const float* x, uint32_t rows, MlpScratch* s, float* out) {
  const size_t hidden = config.hidden;
  Grow(&s->router, size_t{rows} * config.experts);
  Grow(&s->gathered, rows * hidden);
  Grow(&s->expert_out, rows * hidden);
  HGA_RETURN_IF_ERROR(router_.Apply(x, rows, s->router.data()));
  std::vector<ExpertRows> chosen(config.experts);
  for (uint32_t r = 0; r < rows; ++r) {
    const float* logits = &s->router[size_t{r} * config.experts];
    const std::vector<double> precise(logits, logits + config.experts);
    for (const ExpertShare& share : ChooseExperts(config, precise.data())) {
      chosen[share.expert].rows.push_back(r);
      chosen[share.expert].weights.push_back(static_cast<float>(share.weight));
    }
  }
  std::fill_n(out, rows * hidden, 0.0f);
  for (uint32_t e = 0; e < config.experts; ++e) {
    const auto count = static_cast<uint32_t>(chosen[e].rows.size());
    if (count == 0) continue;
    for (uint32_t i = 0; i < count; ++i) {
      std::memcpy(&s->gathered[i * hidden], x + chosen[e].rows[i] * hidden, hidden * sizeof(float));
    }
    HGA_RETURN_IF_ERROR(ApplyGated(&gated_[e], s->gathered.data(), count, s, s->expert_out.data()));
    for (uint32_t i = 0; i < count; ++i) {
      float* to = out + chosen[e].rows[i] * hidden;
      for (size_t j = 0; j < hidden; ++j) to[j] += chosen[e].weights[i] * s->expert_out[i * hidden + j];
    }
  }
  return absl::OkStatus();
}

size_t CpuMlp::packed_bytes() const {
  size_t bytes = 0;
  for (const Gated& mlp : gated_) bytes += mlp.gate_up.packed_bytes() + mlp.down.packed_bytes();
  return bytes;
}

}  // namespace hga
