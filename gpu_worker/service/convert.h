// Between the wire and the engine: the only place that knows both.
#ifndef HGA_GPU_WORKER_SERVICE_CONVERT_H_
#define HGA_GPU_WORKER_SERVICE_CONVERT_H_

#include "absl/status/statusor.h"
#include "gpu_worker/engine/request.h"
#include "gpu_worker/model/loaded_model.h"
#include "proto/gpu_worker/v1/gpu_worker.pb.h"

namespace hga {

// Tokenizes the input. `model` must outlive the request. INVALID_ARGUMENT: the input or a count.
absl::StatusOr<EngineRequest> ToEngineRequest(const LoadedModel& model, const BudgetOptions& default_budget,
                                              const gpu_worker::v1::GenerateRequest& request);

gpu_worker::v1::GenerateEvent ToProto(const EngineEvent& event);
void ToProto(const TierCounts& tiers, gpu_worker::v1::TierHits* out);
// The max_chunks chunks of each KV head with the most mass, true or estimated; 0: a few.
void ToProto(const Explanation& in, uint32_t max_chunks, gpu_worker::v1::ExplainResponse* out);

}  // namespace hga

#endif  // HGA_GPU_WORKER_SERVICE_CONVERT_H_
