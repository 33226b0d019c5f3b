#include "common/rpc/daemon.h"

#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <exception>
#include <optional>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/metrics/metric_factory.h"
#include "common/metrics/process_metrics.h"
#include "common/rpc/channel.h"
#include "common/rpc/limits.h"
#include "common/rpc/rpc_observer.h"
#include "common/rpc/socket_lock.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "prometheus/exposer.h"

namespace hga {
namespace {

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

absl::StatusOr<std::unique_ptr<prometheus::Exposer>> StartMetricsPage(
    const std::string& address, const std::vector<std::shared_ptr<prometheus::Collectable>>& sources) {
  if (address.empty()) return nullptr;
  HGA_RETURN_IF_ERROR(ValidateAddress(address));
  try {  // the library reports a port in use by throwing
    auto exposer = std::make_unique<prometheus::Exposer>(address, /*num_threads=*/1);
    for (const auto& source : sources) exposer->RegisterCollectable(source);
    return exposer;
  } catch (const std::exception& error) {
    return absl::AlreadyExistsError(absl::StrCat("cannot serve metrics at ", address, " (", error.what(),
                                                 "); is another instance running? Choose another --metrics_listen"));
  }
}

class ServingDaemon : public Daemon {
 public:
  explicit ServingDaemon(const DaemonOptions& options) : options_(options) {}

  ~ServingDaemon() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    if (lock_.has_value()) ::unlink(socket_path_.c_str());
  }

  absl::Status Listen(const std::vector<grpc::Service*>& services, std::shared_ptr<prometheus::Registry> registry) {
    HGA_RETURN_IF_ERROR(ValidateAddress(options_.listen));
    if (absl::StartsWith(options_.listen, "unix:")) {
      socket_path_ = options_.listen.substr(5);
      HGA_ASSIGN_OR_RETURN(SocketLock lock, SocketLock::Take(socket_path_));
      lock_.emplace(std::move(lock));
    }
    registry_ = registry;
    const auto calls = std::make_shared<RpcMetrics>(registry);
    HGA_ASSIGN_OR_RETURN(exposer_, StartMetricsPage(options_.metrics_listen, {registry, process_}));
    return StartServer(services, calls);
  }

  void SetServing(bool serving) override { server_->GetHealthCheckService()->SetServingStatus(serving); }

  std::string address() const override { return address_; }

  void RunUntilSignal(const std::function<void()>& on_drain) override {
    const sigset_t signals = StopSignals();
    int signal = 0;
    sigwait(&signals, &signal);
    LogInfo("draining", {{"signal", signal}});
    SetServing(false);
    if (on_drain) on_drain();
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(options_.drain_deadline_ms));
    LogInfo("stopped");
  }

 private:
  absl::Status StartServer(const std::vector<grpc::Service*>& services, std::shared_ptr<RpcMetrics> calls) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(options_.listen, grpc::InsecureServerCredentials(), &port);
    // Without this a second process could listen at the same TCP port and take half of the calls.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    builder.SetMaxSendMessageSize(kMaxMessageBytes);
    for (grpc::Service* service : services) builder.RegisterService(service);
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> observers;
    observers.push_back(std::make_unique<RpcObserver>(std::move(calls), options_.logged_methods));
    builder.experimental().SetInterceptorCreators(std::move(observers));
    const mode_t old_mask = ::umask(0177);  // the socket is its owner's alone from its first moment
    server_ = builder.BuildAndStart();
    ::umask(old_mask);
    if (server_ == nullptr) {
      return absl::AlreadyExistsError(
          absl::StrCat("cannot listen at ", options_.listen, "; is another process using it? Choose another --listen"));
    }
    server_->GetHealthCheckService()->SetServingStatus(false);
    address_ = socket_path_.empty() ? absl::StrCat(options_.listen.substr(0, options_.listen.rfind(':')), ":", port)
                                    : options_.listen;
    LogInfo("listening", {{"address", address_}, {"metrics", options_.metrics_listen}});
    return absl::OkStatus();
  }

  const DaemonOptions options_;
  std::string socket_path_;  // empty: TCP
  std::string address_;
  std::optional<SocketLock> lock_;
  const std::shared_ptr<prometheus::Collectable> process_ = std::make_shared<ProcessMetrics>();
  std::shared_ptr<prometheus::Registry> registry_;  // owns what calls are counted in
  std::unique_ptr<prometheus::Exposer> exposer_;    // holds its sources weakly
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

std::string MetricsPage(const std::shared_ptr<prometheus::Registry>& registry) {
  const RpcMetrics calls(registry);
  return MetricsText({registry, std::make_shared<ProcessMetrics>()});
}

void InitDaemon(const std::string& name) {
  InitLog(name);
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const DaemonOptions& options,
                                                      const std::vector<grpc::Service*>& services,
                                                      std::shared_ptr<prometheus::Registry> registry) {
  auto daemon = std::make_unique<ServingDaemon>(options);
  HGA_RETURN_IF_ERROR(daemon->Listen(services, std::move(registry)));
  return daemon;
}

}  // namespace hga
