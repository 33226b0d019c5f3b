#include "gpu_worker/backend/cuda/cublas_lt.h"

#include <dlfcn.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

// Prompts are computed in batches of one size; other sizes are last batches and come in any length.
constexpr size_t kMaxPlans = 4096;

const char* const kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so",
                              "/usr/local/cuda/lib64/libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so"};

absl::Status Check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cuBLASLt: ", what, " failed with status ", static_cast<int>(status)));
}

template <typename Function>
bool Bind(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Load() {
  for (const char* name : kNames) {
    void* library = dlopen(name, RTLD_NOW | RTLD_LOCAL);  // stays for as long as the process
    if (library == nullptr) continue;
    std::unique_ptr<CublasLt> blas(new CublasLt);
    HGA_RETURN_IF_ERROR(blas->Find(library));
    HGA_RETURN_IF_ERROR(Check(blas->call_.Create(&blas->handle_), "cublasLtCreate"));
    return blas;
  }
  return absl::NotFoundError(
      "no libcublasLt.so.13 where the loader looks (LD_LIBRARY_PATH) or in /usr/local/cuda/lib64");
}

absl::Status CublasLt::Find(void* library) {
  Functions& f = call_;
  const bool all = Bind(library, "cublasLtCreate", &f.Create) && Bind(library, "cublasLtDestroy", &f.Destroy) &&
                   Bind(library, "cublasLtMatmulDescCreate", &f.DescCreate) &&
                   Bind(library, "cublasLtMatmulDescSetAttribute", &f.DescSet) &&
                   Bind(library, "cublasLtMatmulDescDestroy", &f.DescDestroy) &&
                   Bind(library, "cublasLtMatrixLayoutCreate", &f.LayoutCreate) &&
                   Bind(library, "cublasLtMatrixLayoutDestroy", &f.LayoutDestroy) &&
                   Bind(library, "cublasLtMatmulPreferenceCreate", &f.PreferenceCreate) &&
                   Bind(library, "cublasLtMatmulPreferenceSetAttribute", &f.PreferenceSet) &&
                   Bind(library, "cublasLtMatmulPreferenceDestroy", &f.PreferenceDestroy) &&
                   Bind(library, "cublasLtMatmulAlgoGetHeuristic", &f.Heuristic) &&
                   Bind(library, "cublasLtMatmul", &f.Matmul);
  return all ? absl::OkStatus() : absl::InternalError("cuBLASLt: the library lacks a function");
}

CublasLt::~CublasLt() {
  DropPlans();
  if (handle_ != nullptr) call_.Destroy(handle_);
}

void CublasLt::DropPlans() {
  for (auto& [key, plan] : plans_) {
    if (plan.desc != nullptr) call_.DescDestroy(plan.desc);
    for (cublasLtMatrixLayout_t layout : {plan.w, plan.x, plan.y}) {
      if (layout != nullptr) call_.LayoutDestroy(layout);
    }
  }
  plans_.clear();
}

void CublasLt::SetWorkspace(void* memory, size_t bytes) {
  DropPlans();  // they were chosen for another
  workspace_ = memory;
  workspace_bytes_ = bytes;
}

// cuBLASLt thinks in columns: y [rows][outputs] is its outputs x rows matrix, w [outputs][cols] its cols x outputs one.
absl::Status CublasLt::MakePlan(const Key& key, const Scales& scales, Plan* plan) {
  const cudaDataType_t type = key.f8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
  HGA_RETURN_IF_ERROR(Check(call_.DescCreate(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a description"));
  const cublasOperation_t transpose = CUBLAS_OP_T;
  HGA_RETURN_IF_ERROR(Check(
      call_.DescSet(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof(transpose)), "a description"));
  if (key.f8) {
    HGA_RETURN_IF_ERROR(SetBlockScales(*plan));
    HGA_RETURN_IF_ERROR(SetScales(*plan, scales));  // no algorithm is found without any
  }
  HGA_RETURN_IF_ERROR(Check(call_.LayoutCreate(&plan->w, type, key.cols, key.outputs, key.cols), "a layout"));
  HGA_RETURN_IF_ERROR(Check(call_.LayoutCreate(&plan->x, type, key.cols, key.rows, key.cols), "a layout"));
  HGA_RETURN_IF_ERROR(Check(call_.LayoutCreate(&plan->y, CUDA_R_32F, key.outputs, key.rows,
                                               static_cast<int64_t>(key.y_stride)), "a layout"));
  return ChooseAlgorithm(plan);
}

absl::Status CublasLt::SetBlockScales(const Plan& plan) {
  const int32_t of_w = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F, of_x = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
  HGA_RETURN_IF_ERROR(
      Check(call_.DescSet(plan.desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &of_w, sizeof(of_w)), "block scales"));
  return Check(call_.DescSet(plan.desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &of_x, sizeof(of_x)), "block scales");
}

absl::Status CublasLt::SetScales(const Plan& plan, const Scales& scales) {
  HGA_RETURN_IF_ERROR(Check(
      call_.DescSet(plan.desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scales.w, sizeof(scales.w)), "block scales"));
  return Check(call_.DescSet(plan.desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scales.x, sizeof(scales.x)),
               "block scales");
}

absl::Status CublasLt::ChooseAlgorithm(Plan* plan) {
  cublasLtMatmulPreference_t preference = nullptr;
  HGA_RETURN_IF_ERROR(Check(call_.PreferenceCreate(&preference), "a preference"));
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  absl::Status status = Check(call_.PreferenceSet(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                  &workspace_bytes_, sizeof(workspace_bytes_)), "a preference");
  if (status.ok()) {
    status =
        Check(call_.Heuristic(handle_, plan->desc, plan->w, plan->x, plan->y, plan->y, preference, 1, &best, &found),
              "choosing an algorithm");
  }
  call_.PreferenceDestroy(preference);
  if (status.ok() && found == 0) status = absl::InternalError("cuBLASLt: no algorithm for these sizes");
  plan->algorithm = best.algo;
  return status;
}

absl::StatusOr<const CublasLt::Plan*> CublasLt::PlanFor(const Key& key, const Scales& scales) {
  auto found = plans_.find(key);
  if (found == plans_.end()) {
    if (plans_.size() >= kMaxPlans) DropPlans();
    found = plans_.emplace(key, Plan()).first;
    if (absl::Status status = MakePlan(key, scales, &found->second); !status.ok()) {
      DropPlans();
      return status;
    }
  }
  return &found->second;
}

absl::Status CublasLt::Multiply(cudaStream_t stream, const Plan& plan, const void* w, const void* x, float* y) {
  const float one = 1, zero = 0;
  return Check(call_.Matmul(handle_, plan.desc, &one, w, plan.w, x, plan.x, &zero, y, plan.y, y, plan.y,
                            &plan.algorithm, workspace_, workspace_bytes_, stream),
               "cublasLtMatmul");
}

absl::Status CublasLt::Gemm(cudaStream_t stream, const GemmCall& call) {
  HGA_ASSIGN_OR_RETURN(const Plan* plan, PlanFor({false, call.rows, call.outputs, call.cols, call.y_stride}, {}));
  return Multiply(stream, *plan, call.w, call.x, call.y);
}

absl::Status CublasLt::F8Gemm(cudaStream_t stream, const F8GemmCall& call) {
  const Scales scales = {call.w_scales, call.x_scales};
  HGA_ASSIGN_OR_RETURN(const Plan* plan, PlanFor({true, call.rows, call.outputs, call.cols, call.y_stride}, scales));
  HGA_RETURN_IF_ERROR(SetScales(*plan, scales));
  return Multiply(stream, *plan, call.w, call.x, call.y);
}

}  // namespace hga
