#include "tests/bench/onednn_gemm.h"

#include <cstring>
#include <utility>

#include "dnnl.hpp"
#include "gpu_worker/backend/cpu/float_gemm.h"

namespace hga {

using dnnl::memory;

struct OnednnGemm::State {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  dnnl::matmul primitive;
  memory src, weights, dst;
};

OnednnGemm::OnednnGemm(std::unique_ptr<State> state) : state_(std::move(state)) {}
OnednnGemm::~OnednnGemm() = default;

std::unique_ptr<OnednnGemm> OnednnGemm::Create(OnednnType type, uint32_t rows, uint32_t cols, uint32_t outputs) {
  if (type == OnednnType::kBf16) {
    const auto context = NewGemmContext();
    if (context == nullptr || !MultipliesBf16(*context)) return nullptr;
  }
  const bool int8 = type == OnednnType::kInt8;
  const auto of = type == OnednnType::kF32 ? memory::data_type::f32 : memory::data_type::bf16;
  try {
    auto state = std::make_unique<State>();
    const memory::desc src({rows, cols}, int8 ? memory::data_type::u8 : of, memory::format_tag::ab);
    const memory::desc weights({cols, outputs}, int8 ? memory::data_type::s8 : of, memory::format_tag::any);
    const memory::desc dst({rows, outputs}, memory::data_type::f32, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(src, weights, dst), state->engine);
    state->primitive = dnnl::matmul(desc);
    for (auto [what, of_what] :
         {std::pair(&state->src, desc.src_desc()), std::pair(&state->weights, desc.weights_desc()),
          std::pair(&state->dst, desc.dst_desc())}) {
      *what = memory(of_what, state->engine);
      std::memset(what->get_data_handle(), 0, of_what.get_size());
    }
    return std::unique_ptr<OnednnGemm>(new OnednnGemm(std::move(state)));
  } catch (const dnnl::error&) {
    return nullptr;
  }
}

void OnednnGemm::Run() {
  state_->primitive.execute(state_->stream, {{DNNL_ARG_SRC, state_->src}, {DNNL_ARG_WEIGHTS, state_->weights},
                                             {DNNL_ARG_DST, state_->dst}});
  state_->stream.wait();
}

}  // namespace hga
