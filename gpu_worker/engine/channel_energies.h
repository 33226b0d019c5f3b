// Measures what a head's channels carry, for sketches whose bits are dealt out (common/kv/sketch_deal.h).
#ifndef HGA_GPU_WORKER_ENGINE_CHANNEL_ENERGIES_H_
#define HGA_GPU_WORKER_ENGINE_CHANNEL_ENERGIES_H_

#include <string>

#include "absl/status/statusor.h"
#include "common/kv/summary.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/model/loaded_model.h"

namespace hga {

// The energies for SketchPlan: of the queries of each KV head and of its keys' differences to their chunk's centre,
// over some 250 tokens of a text of the program's own, which the model reads densely: as long as a prompt of that
// length takes. The channels that RoPE turns together have the same, so that no position matters. The same bytes run to
// run.
// geometry: the backend's, which must be between steps, its rows at least a chunk.
absl::StatusOr<std::string> MeasureChannelEnergies(const LoadedModel& model, const KvGeometry& geometry,
                                                   Backend* backend);

// The method of that name, ready for use with the model: measures if it needs to.
absl::StatusOr<const SummaryMethod*> PrepareSummaryMethod(const std::string& name, const LoadedModel& model,
                                                          const KvGeometry& geometry, Backend* backend);

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_CHANNEL_ENERGIES_H_
