#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/daemon.h"
#include "kv_store/options.h"
#include "kv_store/service/kv_service.h"
#include "kv_store/store/store_loop.h"
#include "kv_store/tier/packed_tier.h"
#include "kv_store/tier/rocks_tier.h"
#include "kv_store/tier/served_at.h"

namespace hga {
namespace {

constexpr int kDrainMs = 2000;

StoreLoopOptions LoopOptions(const KvStoreOptions& o) {
  StoreLoopOptions loop;
  loop.arena_path = o.arena_path;
  loop.arena_bytes = o.arena_bytes;
  loop.commit_waits_for_disk = o.commit_ack == "disk";
  loop.read_threads = o.read_threads;
  loop.store.writeback_queue_chunks = o.writeback_queue_chunks;
  loop.store.disk_bytes = o.disk_bytes;
  loop.store.pin_bytes = o.pin_bytes;
  loop.store.pinned_sessions.insert(o.pin.begin(), o.pin.end());
  loop.store.packs_bf16 = o.kv_dtype != "bf16";
  return loop;
}

RocksTierOptions TierOptions(const KvStoreOptions& o) {
  RocksTierOptions tier;
  tier.data_dir = o.data_dir;
  tier.memory_bytes = o.rocksdb_bytes;
  tier.direct_io = o.direct_io;
  tier.disk_bytes = o.disk_bytes;
  tier.kv_dtype = *ParseKvDtype(o.kv_dtype);
  return tier;
}

absl::Status Serve(const KvStoreOptions& o) {
  auto registry = std::make_shared<prometheus::Registry>();
  if (o.watch.print_metrics) {
    const StoreMetrics declared(registry);
    std::cout << MetricsPage(registry);
    return absl::OkStatus();
  }
  HGA_ASSIGN_OR_RETURN(auto tier, OpenRocksTier(TierOptions(o)));
  RemoveServedAt(o.data_dir);  // of one that was killed
  if (o.packed_ram_bytes > 0) {
    tier = std::make_unique<PackedTier>(std::move(tier), o.packed_ram_bytes);
  }
  StoreLoopOptions loop_options = LoopOptions(o);
  if (!o.record_trace.empty()) {
    HGA_ASSIGN_OR_RETURN(loop_options.store.trace, TraceRecorder::Create(o.record_trace, o.record_trace_bytes));
  }
  HGA_ASSIGN_OR_RETURN(auto loop, StoreLoop::Start(loop_options, std::move(tier), registry));
  KvService service(loop.get());
  const DaemonOptions daemon_options{"kv_store", o.listen, o.metrics_listen, kDrainMs, {"OpenSession"}};
  HGA_ASSIGN_OR_RETURN(auto daemon, Daemon::Start(daemon_options, {&service}, registry));
  const absl::Status said = WriteServedAt(o.data_dir, daemon->address());
  if (!said.ok()) LogWarning("`hga store` will not find this kv_store by its folder", {{"error", said.message()}});
  daemon->SetServing(true);
  daemon->RunUntilSignal([&] { loop->StopClients(); });
  RemoveServedAt(o.data_dir);
  // Calls are over: what they committed goes to disk before the process ends.
  return loop->Flush(/*drop_ram=*/false, std::chrono::seconds(o.shutdown_flush_seconds)).status();
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::InitDaemon("kv_store");
  hga::KvStoreOptions options;
  if (const auto exit_code = hga::ParseOptions(argc, argv, &options); exit_code.has_value())
    return *exit_code;
  hga::SetLogLevel(options.watch.log_level);
  const absl::Status status = hga::Serve(options);
  if (status.ok()) return 0;
  hga::LogError(std::string(status.message()));
  return 1;
}
