// What the engine needs to know of a model, besides a backend that runs it.
#ifndef HGA_GPU_WORKER_ENGINE_ENGINE_MODEL_H_
#define HGA_GPU_WORKER_ENGINE_ENGINE_MODEL_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/kv/geometry.h"
#include "common/kv/ids.h"
#include "common/kv/summary.h"

namespace hga {

struct EngineModel {
  std::string name;  // of metrics
  KvGeometry geometry;
  ModelFingerprint fingerprint;
  const SummaryMethod* method = nullptr;  // how keys are summed up for the router; ready for use
  uint32_t vocab_size = 0;
  uint32_t context_tokens = 0;
  std::vector<uint32_t> end_tokens;                      // end of turn, end of text
  std::function<std::string(uint32_t)> token_bytes;  // text of a token; empty for control tokens; thread-safe
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_ENGINE_MODEL_H_
