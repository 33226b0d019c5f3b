// The code of every kernel in kernel_list.h.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ALL_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ALL_H_

#include "gpu_worker/backend/cuda/kernels/attend_few.h"
#include "gpu_worker/backend/cuda/kernels/attend_many.h"
#include "gpu_worker/backend/cuda/kernels/experts.h"
#include "gpu_worker/backend/cuda/kernels/gather.h"
#include "gpu_worker/backend/cuda/kernels/glibc_exp.h"
#include "gpu_worker/backend/cuda/kernels/heads.h"
#include "gpu_worker/backend/cuda/kernels/kernel_list.h"
#include "gpu_worker/backend/cuda/kernels/matrix.h"
#include "gpu_worker/backend/cuda/kernels/quantize.h"
#include "gpu_worker/backend/cuda/kernels/residual.h"
#include "gpu_worker/backend/cuda/kernels/route_pick.h"
#include "gpu_worker/backend/cuda/kernels/route_score.h"
#include "gpu_worker/backend/cuda/kernels/rows.h"
#include "gpu_worker/backend/cuda/kernels/states.h"
#include "gpu_worker/backend/cuda/kernels/tile_gemm.h"
#include "gpu_worker/backend/cuda/kernels/top_logits.h"

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_KERNELS_ALL_H_
