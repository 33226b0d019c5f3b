// A backend whose keys and values are rounded to an 8-bit type where they are made.
#ifndef HGA_GPU_WORKER_BACKEND_ROUNDED_KV_H_
#define HGA_GPU_WORKER_BACKEND_ROUNDED_KV_H_

#include <memory>

#include "common/kv/ids.h"
#include "common/kv/kv_dtype.h"
#include "gpu_worker/backend/backend.h"

namespace hga {

// `inner` itself for bf16, and where blocks hold that type anyway. Else K/V stays bf16 in memory and is attended in
// place; what is rounded is its values, before anything reads them, so that a store may pack it without loss.
std::unique_ptr<Backend> RoundKv(std::unique_ptr<Backend> inner, const KvGeometry& geometry, KvDtype dtype);

// Names of chunks hang on this: K/V of another type is another model's.
ModelFingerprint FingerprintWith(const ModelFingerprint& model, KvDtype dtype);

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_ROUNDED_KV_H_
