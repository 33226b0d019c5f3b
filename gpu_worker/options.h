// Command line and configuration of the gpu_worker daemon.
#ifndef HGA_GPU_WORKER_OPTIONS_H_
#define HGA_GPU_WORKER_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "common/rpc/watch_options.h"
#include "gpu_worker/engine/engine_options.h"
#include "gpu_worker/inspect.h"

namespace hga {

struct GpuWorkerOptions {
  std::string listen = "unix:/run/hga/gpu_worker.sock";
  std::string metrics_listen = "127.0.0.1:9103";
  std::string model;
  std::string chat_template;  // a name of model/chat_style.h; empty: the model file's own
  std::string kv_store = "unix:/run/hga/kv_store.sock";
  std::string kv_transport = "auto";            // or arena, bytes
  uint64_t kv_remote_bytes = uint64_t{1} << 30;  // K/V held here at a time where it comes as bytes
  bool kv_ring = true;                           // fetch over shared memory where the arena is mapped
  std::string router;  // empty: none, all attention is dense
  std::string router_transport = "auto";
  std::string backend = "cpu";
  std::string kv_dtype = "bf16";  // or fp8_e4m3, int8: K/V is rounded to it
  uint64_t device_memory_limit = 0;  // bytes; 0: what is free but for a reserve
  uint64_t device_tier = 0;          // bytes; 0: what the rest leaves
  uint64_t device_summaries = 0;     // bytes, if the flag is given; 0: the router selects
  bool device_in_place = true, device_graphs = true, device_f8_gemm = true;
  bool bf16_copy = false;  // cpu: of quantised weights, for prompts
  int threads = 0;      // 0: one per core
  int router_spin_us = 0;
  std::string trace;                             // file that gets a Chrome trace of the steps; empty: none
  uint64_t trace_bytes = uint64_t{256} << 20;    // some ten thousand decode steps of 30 layers
  std::set<std::string> given;  // flags that the command line or the configuration names
  WatchOptions watch;
  EngineOptions engine;
  bool sizes = false;      // show what known models need and exit
  InspectOptions inspect;  // with a path: show that model and exit

  bool Gives(const std::string& flag) const { return given.count(flag) > 0; }
  // INVALID_ARGUMENT names the flag. What depends on the model is checked when it is loaded.
  absl::Status Validate() const;
};

// Fills `options`. A value: the process is to exit with it (--help, or an error that has been printed).
std::optional<int> ParseOptions(int argc, const char* const* argv, GpuWorkerOptions* options);

}  // namespace hga

#endif  // HGA_GPU_WORKER_OPTIONS_H_
