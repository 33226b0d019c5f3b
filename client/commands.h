// The commands: one file per group. Each prints its result and returns what went wrong.
#ifndef HGA_CLIENT_COMMANDS_H_
#define HGA_CLIENT_COMMANDS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/answer.h"

namespace hga {

// generate_command.cc
absl::Status RunAsk(const Call& call);
absl::Status RunGenerate(const Call& call);
absl::Status RunPrefill(const Call& call);

// chat_command.cc
absl::Status RunChat(const Call& call);

// inspect_command.cc
absl::Status RunSessionsList(const Call& call);
absl::Status RunSessionsDelete(const Call& call);
absl::Status RunExplain(const Call& call);
absl::Status RunSessionsFork(const Call& call);
absl::Status RunSessionsPin(const Call& call, bool pinned);
absl::Status RunStats(const Call& call);
absl::Status RunModel(const Call& call);

// bench_command.cc
absl::Status RunBench(const Call& call);

// health_command.cc
// UNAVAILABLE where the daemon at `address` does not serve within the options' wait.
absl::Status RunHealth(const Options& options, const std::string& address, Console* console);

// doctor_command.cc
// `worker`: the worker's address. UNKNOWN where a finding is a failure.
absl::Status RunDoctor(const Options& options, const std::string& worker, Console* console);

// model_file_command.cc
// Becomes `gpu_worker --inspect` or `--sizes`: returns only if that cannot be started.
absl::Status RunGpuWorker(const Options& options);
// Becomes `kv_store_tool` with the command's arguments; as above.
absl::Status RunStore(const Options& options);

}  // namespace hga

#endif  // HGA_CLIENT_COMMANDS_H_
