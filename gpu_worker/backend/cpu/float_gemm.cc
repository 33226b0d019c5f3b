#include "gpu_worker/backend/cpu/float_gemm.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "dnnl.h"
#include "dnnl.hpp"
#include "gpu_worker/backend/cpu/kernels.h"

namespace hga {
namespace {

// Outputs that one thread multiplies at a time in f32: few enough to share a layer's matrix out evenly.
constexpr uint32_t kF32Block = 128;

}  // namespace

class GemmContext {
 public:
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  // Elsewhere oneDNN imitates bf16 slowly (AVX-512) or cannot multiply it (AVX2): GEMM is in f32 there.
  const bool bf16_gemm = HasBf16();

  struct Gemm {
    dnnl::matmul::primitive_desc desc;
    dnnl::matmul primitive;
  };
  // Throws dnnl::error; called inside Create's guard.
  const Gemm& For(uint32_t cols, uint32_t outputs) {
    auto& gemm = gemms_[{cols, outputs}];
    if (gemm == nullptr) {
      using dnnl::memory;
      const memory::desc src({kGemmRows, cols}, memory::data_type::bf16, memory::format_tag::ab);
      const memory::desc weights({cols, outputs}, memory::data_type::bf16, memory::format_tag::any);
      const memory::desc dst({kGemmRows, outputs}, memory::data_type::f32, memory::format_tag::ab);
      const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(src, weights, dst), engine);
      gemm = std::make_unique<Gemm>(Gemm{desc, dnnl::matmul(desc)});
    }
    return *gemm;
  }

 private:
  // oneDNN's ISA values are masks: each has the bits of what it includes.
  static bool HasBf16() {
    const auto need = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
    return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & need) == need;
  }

  std::map<std::pair<uint32_t, uint32_t>, std::unique_ptr<Gemm>> gemms_;
};

std::shared_ptr<GemmContext> NewGemmContext() {
  try {
    return std::make_shared<GemmContext>();
  } catch (const dnnl::error&) {
    return nullptr;
  }
}

bool MultipliesBf16(const GemmContext& context) { return context.bf16_gemm; }

struct FloatGemm::State {
  std::shared_ptr<GemmContext> context;
  std::vector<TensorView> parts;
  uint32_t cols = 0, outputs = 0;
  std::vector<float> dst;  // [kGemmRows][outputs], for tiles that are not full
  // GEMM in bf16.
  const GemmContext::Gemm* gemm = nullptr;
  dnnl::memory weights;
  std::vector<bf16> rounded;  // [kGemmRows][cols]
  // GEMM in f32.
  std::vector<float> plain;   // [outputs][cols]
  std::vector<float> padded;  // [kGemmRows][cols], for tiles that are not full

  void Pack() {
    if (context->bf16_gemm) {
      PackBf16();
    } else {
      plain.resize(size_t{cols} * outputs);
      ForEachRow(
          [&](uint32_t r, const float* row) { std::memcpy(&plain[size_t{r} * cols], row, cols * sizeof(float)); });
      padded.resize(size_t{kGemmRows} * cols);
    }
    dst.resize(size_t{kGemmRows} * outputs);
  }

  void Multiply(const float* x, uint32_t rows, float* y) {
    float* out = rows == kGemmRows ? y : dst.data();
    context->bf16_gemm ? GemmBf16(x, rows, out) : GemmF32(x, rows, out);
    if (out != y) std::memcpy(y, out, size_t{rows} * outputs * sizeof(float));
  }

  size_t packed_bytes() const {
    return context->bf16_gemm ? gemm->desc.weights_desc().get_size() : plain.size() * sizeof(float);
  }

 private:
  // use(output, its weights [cols]), in any order, in any thread.
  template <typename Use>
  void ForEachRow(const Use& use) {
#pragma omp parallel
    {
      std::vector<float> row(cols);
      uint32_t first = 0;
      for (const TensorView& part : parts) {
#pragma omp for nowait
        for (uint32_t r = 0; r < part.rows; ++r) {
          FastDequantizeTensorRow(part, r, row.data());
          use(first + r, row.data());
        }
        first += part.rows;
      }
    }
  }

  void PackBf16() {
    gemm = &context->For(cols, outputs);
    std::vector<bf16> unpacked(size_t{cols} * outputs);  // [outputs][cols]: W as it is, seen transposed by oneDNN
    ForEachRow([&](uint32_t r, const float* row) { FloatsToBf16(row, cols, &unpacked[size_t{r} * cols]); });
    using dnnl::memory;
    const memory::desc transposed({cols, outputs}, memory::data_type::bf16, memory::format_tag::ba);
    memory from(transposed, context->engine, unpacked.data());
    weights = memory(gemm->desc.weights_desc(), context->engine);
    dnnl::reorder(from, weights).execute(context->stream, from, weights);
    context->stream.wait();
    rounded.resize(size_t{kGemmRows} * cols);
  }

  void GemmBf16(const float* x, uint32_t rows, float* out) {
    FloatsToBf16(x, size_t{rows} * cols, rounded.data());
    std::memset(rounded.data() + size_t{rows} * cols, 0, size_t{kGemmRows - rows} * cols * sizeof(bf16));
    const dnnl::memory a(gemm->desc.src_desc(), context->engine, rounded.data());
    const dnnl::memory c(gemm->desc.dst_desc(), context->engine, out);
    gemm->primitive.execute(context->stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, c}});
    context->stream.wait();
  }

  // In blocks of outputs, each by one thread: cut by oneDNN the order of additions would depend on their number.
  void GemmF32(const float* x, uint32_t rows, float* out) {
    if (rows < kGemmRows) {
      std::copy_n(x, size_t{rows} * cols, padded.begin());
      std::fill(padded.begin() + size_t{rows} * cols, padded.end(), 0.0f);
      x = padded.data();
    }
    const int blocks = static_cast<int>((outputs + kF32Block - 1) / kF32Block);
#pragma omp parallel for schedule(dynamic)
    for (int b = 0; b < blocks; ++b) {
      const uint32_t first = b * kF32Block, count = std::min(kF32Block, outputs - first);
      dnnl_sgemm('N', 'T', kGemmRows, count, cols, 1.0f, x, cols, &plain[size_t{first} * cols], cols, 0.0f, out + first,
                 outputs);
    }
  }
};

FloatGemm::FloatGemm(std::unique_ptr<State> state) : state_(std::move(state)) {}
FloatGemm::~FloatGemm() = default;

absl::StatusOr<std::unique_ptr<FloatGemm>> FloatGemm::Create(std::shared_ptr<GemmContext> context,
                                                             const std::vector<TensorView>& parts) {
  auto state = std::make_unique<State>();
  state->context = std::move(context);
  state->parts = parts;
  state->cols = parts[0].cols;
  for (const TensorView& part : parts) state->outputs += part.rows;
  try {
    state->Pack();
  } catch (const dnnl::error& error) {
    return absl::InternalError(absl::StrCat("oneDNN cannot multiply ", state->cols, " x ", state->outputs,
                                            " on this CPU: ", error.message));
  }
  return std::unique_ptr<FloatGemm>(new FloatGemm(std::move(state)));
}

absl::Status FloatGemm::Apply(const float* x, uint32_t rows, float* y) {
  try {
    state_->Multiply(x, rows, y);
  } catch (const dnnl::error& error) {
    return absl::InternalError(absl::StrCat("oneDNN: ", error.message));
  }
  return absl::OkStatus();
}

size_t FloatGemm::packed_bytes() const { return state_->packed_bytes(); }

}  // namespace hga
