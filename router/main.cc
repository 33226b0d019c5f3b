#include <algorithm>
#include <iostream>
#include <memory>
#include <string>

#include "common/base/cores.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/daemon.h"
#include "router/options.h"
#include "router/service/kv_summary_source.h"
#include "router/service/router_service.h"

namespace hga {
namespace {

constexpr int kDrainMs = 2000;

uint32_t SelectThreads(const RouterOptions& o) {
  return o.threads > 0 ? o.threads : std::min(Cores(), 8u);
}

absl::Status Serve(const RouterOptions& o) {
  const auto registry = std::make_shared<prometheus::Registry>();
  RouterMetrics metrics(registry);
  if (o.watch.print_metrics) {
    std::cout << MetricsPage(registry);
    return absl::OkStatus();
  }
  metrics.SetCacheLimit(o.cache_bytes);
  SummaryIndex index({o.cache_bytes, o.max_sequences},
                     o.kv_store.empty() ? SummarySource() : KvSummarySource(AttachKvStore(o.kv_store)));
  RouterService service({o.ring_dir, o.spin_us, o.select, SelectThreads(o)}, &index, &metrics);
  const DaemonOptions daemon_options{"router", o.listen, o.metrics_listen, kDrainMs, {"OpenSequence"}};
  HGA_ASSIGN_OR_RETURN(auto daemon, Daemon::Start(daemon_options, {&service}, registry));
  daemon->SetServing(true);
  daemon->RunUntilSignal([&] { service.StopWorkers(); });
  return absl::OkStatus();
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::InitDaemon("router");
  hga::RouterOptions options;
  if (const auto exit_code = hga::ParseOptions(argc, argv, &options); exit_code.has_value()) return *exit_code;
  hga::SetLogLevel(options.watch.log_level);
  const absl::Status status = hga::Serve(options);
  if (status.ok()) return 0;
  hga::LogError(std::string(status.message()));
  return 1;
}
