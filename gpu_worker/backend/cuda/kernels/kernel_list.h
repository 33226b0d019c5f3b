// Every kernel of the CUDA backend by name: its arguments are <Name>Args (args.h), its code is Run(const <Name>Args&).
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_KERNEL_LIST_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_KERNEL_LIST_H_

#include <cstdint>

#include "gpu_worker/backend/cuda/kernels/args.h"
#include "gpu_worker/backend/cuda/kernels/route_args.h"

#define HGA_CUDA_KERNELS(X) \
  X(RmsNorm)                \
  X(Add)                    \
  X(SwiGlu)                 \
  X(FinishHeads)            \
  X(Gemv)                   \
  X(Dequantize)             \
  X(QuantizeRows)           \
  X(TileGemm)               \
  X(ChooseExperts)          \
  X(GroupExperts)           \
  X(CombineExperts)         \
  X(Gather)                 \
  X(AttendFew)              \
  X(AttendMany)             \
  X(MergeParts)             \
  X(SumValues)              \
  X(AddResidual)            \
  X(FinishAttention)        \
  X(LogSumExp)              \
  X(TopLogits)              \
  X(Penalize)               \
  X(LogitMass)              \
  X(RouteTables)            \
  X(RouteCoarse)            \
  X(RouteFine)              \
  X(RouteSum)               \
  X(RoutePool)              \
  X(RouteCount)             \
  X(RouteChoose)            \
  X(RouteTake)

namespace hga {

enum class KernelId : uint32_t {
#define HGA_KERNEL_ID(name) k##name,
  HGA_CUDA_KERNELS(HGA_KERNEL_ID)
#undef HGA_KERNEL_ID
      kCount
};

// KernelOf<Args>: id and name of the kernel that takes these arguments.
template <typename Args>
struct KernelOf;
#define HGA_KERNEL_OF(kernel)                               \
  template <>                                               \
  struct KernelOf<kernel##Args> {                           \
    static constexpr KernelId id = KernelId::k##kernel;     \
    static constexpr const char* name = #kernel;            \
  };
HGA_CUDA_KERNELS(HGA_KERNEL_OF)
#undef HGA_KERNEL_OF

// Residence<Args>: what registers are shared out by: the most threads that a block of the kernel has, and the least
// blocks that a multiprocessor is to hold.
template <uint32_t kThreads, uint32_t kBlocks>
struct Resident {
  static constexpr uint32_t threads = kThreads, blocks = kBlocks;
};
template <typename Args>
struct Residence : Resident<256, 1> {};
template <>
struct Residence<GemvArgs> : Resident<kGemvThreads, 4> {};
template <>
struct Residence<TileGemmArgs> : Resident<kGemmThreads, 3> {};
template <>
struct Residence<AttendFewArgs> : Resident<kFewThreads, 4> {};
template <>
struct Residence<AttendManyArgs> : Resident<kManyThreads, 2> {};
template <>
struct Residence<RouteSumArgs> : Resident<kRouteSumThreads, 1> {};
template <>
struct Residence<RouteChooseArgs> : Resident<kRouteChooseThreads, 1> {};

// How many threads run it. block: a multiple of 32.
struct LaunchShape {
  uint32_t grid_x = 1, grid_y = 1, block = 32, shared_bytes = 0;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_KERNEL_LIST_H_
