// expf with the bits of the host's.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GLIBC_EXP_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GLIBC_EXP_H_

#include "gpu_worker/backend/cuda/kernels/dialect.h"

namespace hga {

// expf, to the same bits as glibc's: 2^(k / 32), and a cubic for what is left, in double.
HGA_DEVICE float GlibcExp(float x) {
  static constexpr double kPowers[32] = {
      0x1p+0,               0x1.059b0d3158574p+0, 0x1.0b5586cf9890fp+0, 0x1.11301d0125b51p+0, 0x1.172b83c7d517bp+0,
      0x1.1d4873168b9aap+0, 0x1.2387a6e756238p+0, 0x1.29e9df51fdee1p+0, 0x1.306fe0a31b715p+0, 0x1.371a7373aa9cbp+0,
      0x1.3dea64c123422p+0, 0x1.44e086061892dp+0, 0x1.4bfdad5362a27p+0, 0x1.5342b569d4f82p+0, 0x1.5ab07dd485429p+0,
      0x1.6247eb03a5585p+0, 0x1.6a09e667f3bcdp+0, 0x1.71f75e8ec5f74p+0, 0x1.7a11473eb0187p+0, 0x1.82589994cce13p+0,
      0x1.8ace5422aa0dbp+0, 0x1.93737b0cdc5e5p+0, 0x1.9c49182a3f09p+0,  0x1.a5503b23e255dp+0, 0x1.ae89f995ad3adp+0,
      0x1.b7f76f2fb5e47p+0, 0x1.c199bdd85529cp+0, 0x1.cb720dcef9069p+0, 0x1.d5818dcfba487p+0, 0x1.dfc97337b9b5fp+0,
      0x1.ea4afa2a490dap+0, 0x1.f50765b6e454p+0};
  if (!(x > -104.0f)) return 0.0f;
  if (x > 89.0f) return __uint_as_float(0x7f800000u);
  constexpr double kSteps = 0x1.71547652b82fep+0 * 32, kRound = 0x1.8p+52;
  const double k = fma(kSteps, static_cast<double>(x), kRound) - kRound;
  const double rest = fma(kSteps, static_cast<double>(x), -k);
  const int32_t step = static_cast<int32_t>(k), place = step & 31;
  const double cubic = fma(0x1.c6af84b912394p-5 / 32768, rest, 0x1.ebfce50fac4f3p-3 / 1024);
  const double linear = fma(0x1.62e42ff0c52d6p-1 / 32, rest, 1.0);
  return static_cast<float>(fma(cubic, rest * rest, linear) * ldexp(kPowers[place], (step - place) / 32));
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_GLIBC_EXP_H_
