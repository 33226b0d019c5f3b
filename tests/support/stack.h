// The three real daemons with a private state folder, and calls to them.
#ifndef HGA_TESTS_SUPPORT_STACK_H_
#define HGA_TESTS_SUPPORT_STACK_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "proto/gpu_worker/v1/gpu_worker.grpc.pb.h"
#include "proto/kv_store/v1/kv_store.grpc.pb.h"
#include "proto/router/v1/router.grpc.pb.h"
#include "tests/support/process.h"

namespace hga {

struct StackOptions {
  std::string model;  // GGUF path; empty: a tiny random model made for the stack
  std::vector<std::string> tiny_model_flags;  // of make_tiny_gguf
  std::string arena_bytes = "256MiB";
  std::vector<std::string> kv_store_flags, router_flags, worker_flags;
  bool with_router = true;
  bool with_metrics = false;  // pages at ports of metrics_port
};

// What a Generate call gave.
struct Answer {
  absl::Status status;
  std::vector<uint32_t> tokens;
  std::string text;
  gpu_worker::v1::Started started;
  gpu_worker::v1::Finished finished;
};

class Stack {
 public:
  explicit Stack(StackOptions options);
  ~Stack();

  // Each waits until the daemon's health is SERVING; the error holds the end of its log.
  absl::Status Start();
  absl::Status StartKvStore();
  // Once it has ended: starts it again and waits for the worker to be attached.
  absl::Status RestartKvStore();
  // The same after SIGKILL.
  absl::Status KillAndRestartKvStore();
  absl::Status StartRouter();
  absl::Status StartWorker();

  // on_token is called with the number of tokens so far; returning false cancels the call.
  Answer Generate(const gpu_worker::v1::GenerateRequest& request,
                  const std::function<bool(size_t)>& on_token = nullptr);
  // Waits until GetStats of the worker satisfies `done` (a minute at most).
  absl::Status WaitForWorker(const std::function<bool(const gpu_worker::v1::GetStatsResponse&)>& done);
  // Until no client holds a slot (a minute at most).
  absl::Status WaitForNoHolds();
  // Everything to disk, nothing left in RAM. No request may be under way.
  absl::Status FlushToDisk();

  std::string address(const std::string& daemon) const { return "unix:" + folder_ + "/" + daemon + ".sock"; }
  int metrics_port(const std::string& daemon) const { return metrics_ports_.at(daemon); }
  std::string log(const std::string& daemon) const;
  const std::string& folder() const { return folder_; }
  const std::string& model() const { return model_; }
  std::vector<std::string> Command(const std::string& daemon) const;  // argv the daemon is started with

  std::unique_ptr<gpu_worker::v1::GpuWorker::Stub> worker_stub() const;
  std::unique_ptr<kv_store::v1::KvStore::Stub> kv_store_stub() const;
  std::unique_ptr<router::v1::Router::Stub> router_stub() const;

  Process kv_store, router, worker;

 private:
  absl::Status StartDaemon(const std::string& daemon, Process* process);
  absl::Status WaitHealthy(const std::string& daemon, Process* process);

  const StackOptions options_;
  std::map<std::string, int> metrics_ports_;
  std::string folder_;
  std::string model_;
};

// Path of a built binary, e.g. "kv_store/kv_store".
std::string Binary(const std::string& path);
// The real model's path, or empty where HGA_MODEL_DIR does not say.
std::string RealModelPath();
// `words` words of varied text, the same for the same seed.
std::string RandomText(int words, uint32_t seed);

}  // namespace hga

#endif  // HGA_TESTS_SUPPORT_STACK_H_
