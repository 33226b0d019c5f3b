// What selecting a layer's keys takes, on the router and on the device.
#ifndef HGA_TESTS_BENCH_CUDA_SELECTION_H_
#define HGA_TESTS_BENCH_CUDA_SELECTION_H_

#include "absl/status/status.h"
#include "gpu_worker/backend/cuda/device.h"
#include "gpu_worker/model/config.h"
#include "tests/bench/report.h"

namespace hga {

// One token after `tokens` tokens with made-up summaries; a budget of a tenth, shared by the KV heads. The router's
// index is in this process, on one thread: its messages are not counted. UNIMPLEMENTED: this CPU adds up in an order
// that the device does not repeat. INTERNAL: the two select differently.
absl::Status MeasureSelection(Device* device, const ModelConfig& config, uint32_t tokens, bool quick, Report* report);

}  // namespace hga

#endif  // HGA_TESTS_BENCH_CUDA_SELECTION_H_
