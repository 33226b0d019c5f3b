// The command line of `hga`.
#ifndef HGA_CLIENT_OPTIONS_H_
#define HGA_CLIENT_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/bench/bench_options.h"
#include "proto/gpu_worker/v1/gpu_worker.pb.h"

namespace hga {

enum class Command { kAsk, kChat, kGenerate, kPrefill, kSessionsList, kSessionsDelete, kSessionsFork, kSessionsPin,
                     kSessionsUnpin, kExplain, kBench, kStats, kModel, kModelInspect, kHealth, kDoctor, kSize,
                     kStore };

struct Options {
  Command command = Command::kModel;

  // Every command.
  std::string worker;             // empty: found by DefaultWorkerAddress()
  std::optional<double> timeout;  // seconds; 0: none
  std::string json;               // empty: no; "-": standard output; else a file
  bool quiet = false;

  // Commands that generate.
  std::string file;
  std::string text;  // question or prompt
  std::string session;
  std::string fork;               // sessions fork: the new name
  bool append = false;
  bool pin = false;
  bool no_thinking = false;
  bool raw = false;
  std::optional<uint32_t> max_tokens;
  float temperature = 0;
  uint32_t top_k = 0;
  float top_p = 0;
  float min_p = 0;
  float repetition_penalty = 0;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::string attention;  // "", "routed" or "dense"
  float budget = 0;
  uint32_t budget_tokens = 0;
  std::string budget_sharing;  // empty: the worker's default
  float budget_layer_cap = 0, budget_step_cap = 0, budget_top_p = 0;
  std::optional<float> budget_layer_floor, budget_least_share;
  std::string residual;  // "on", "off"; empty: the worker's default
  std::optional<uint32_t> dense_decode_tokens, budget_linear_tokens;

  // Health.
  std::string health_address;  // empty: the worker's
  double wait = 0;             // seconds to keep asking

  // Doctor.
  uint64_t arena_bytes = uint64_t{1} << 30;
  std::string data_folder;  // empty: of the stack that is found, else the packaged one

  // Explain.
  uint32_t layer = 0;
  std::optional<uint32_t> position;  // absent: the last
  uint32_t chunks = 8;

  BenchOptions bench;

  // Model inspect.
  std::string model_path;
  uint64_t context_tokens = 0;  // 0: the model's own
  std::string device_memory;    // as gpu_worker takes it, e.g. "32GiB"

  // Store: for kv_store_tool.
  std::vector<std::string> store_arguments;

  // What no parser can see from one flag alone. INVALID_ARGUMENT names the flag.
  absl::Status Validate() const;
};

// Fills `options`. A value: the process is to exit with it (--help, or an error that has been printed).
std::optional<int> ParseOptions(int argc, const char* const* argv, Options* options, std::ostream& out,
                                std::ostream& err);

// Session, sampling, stop strings and attention; the input is left to the command.
gpu_worker::v1::GenerateRequest RequestFrom(const Options& options);

}  // namespace hga

#endif  // HGA_CLIENT_OPTIONS_H_
