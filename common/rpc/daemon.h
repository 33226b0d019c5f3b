// What every daemon does around its services: listen, health, reflection, metrics page, drain on SIGTERM.
#ifndef HGA_COMMON_RPC_DAEMON_H_
#define HGA_COMMON_RPC_DAEMON_H_

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/impl/codegen/service_type.h"
#include "prometheus/registry.h"

namespace hga {

struct DaemonOptions {
  std::string name;            // "kv_store"; used in logs
  std::string listen;          // "unix:/path" or "host:port"
  std::string metrics_listen;  // "127.0.0.1:9101"; empty: no metrics page
  // After SIGTERM: calls still running then are cancelled. Leaves room to exit within 10 s.
  int drain_deadline_ms = 4000;
  // Methods whose calls are logged at info, one line each; the others' at debug (rpc_observer.h).
  std::set<std::string> logged_methods;
};

// The metrics page of a daemon whose metrics are in `registry`, as --print_metrics shows it.
std::string MetricsPage(const std::shared_ptr<prometheus::Registry>& registry);

// First thing in main(): blocks SIGTERM and SIGINT for all threads to come, ignores SIGPIPE, silences absl::Mutex's
// deadlock detector (39 ns a lock in Debian's build), names the log.
void InitDaemon(const std::string& name);

class Daemon {
 public:
  // Starts to listen and serve. ALREADY_EXISTS if another process serves at the address; a Unix socket left by a dead
  // process is replaced, and a new one is 0600. `services` must outlive the daemon; `registry` is not null.
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const DaemonOptions& options,
                                                       const std::vector<grpc::Service*>& services,
                                                       std::shared_ptr<prometheus::Registry> registry);
  virtual ~Daemon() = default;

  // grpc.health.v1 answers SERVING for "" from the first call with true on.
  virtual void SetServing(bool serving) = 0;
  // Address that is listened at: the port chosen where the option says ":0".
  virtual std::string address() const = 0;
  // Waits for SIGTERM or SIGINT; then NOT_SERVING, `on_drain` (stop taking work), finish or cancel running calls.
  virtual void RunUntilSignal(const std::function<void()>& on_drain) = 0;
};

}  // namespace hga

#endif  // HGA_COMMON_RPC_DAEMON_H_
