#include "kv_store/service/testing_daemon.h"

#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "common/base/check.h"
#include "common/base/status.h"
#include "kv_store/tier/packed_tier.h"
#include "kv_store/tier/rocks_tier.h"

namespace hga {

KvGeometry GeometryOfPages() {
  KvGeometry g;
  g.layers = 3;
  g.query_heads = g.kv_heads = 1;
  g.head_dim = 16;
  return g;
}

bool Eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

TestingDaemon::TestingDaemon() {
  char dir[] = "/tmp/hga.XXXXXX";
  HGA_CHECK(::mkdtemp(dir) != nullptr);
  dir_ = dir;
}

TestingDaemon::~TestingDaemon() {
  Stop(/*flush=*/false);
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
}

absl::Status TestingDaemon::Start(uint64_t arena_bytes, bool commit_waits_for_disk, KvDtype kv_dtype,
                                  uint64_t packed_ram_bytes) {
  registry_ = std::make_shared<prometheus::Registry>();
  RocksTierOptions rocks;
  rocks.data_dir = dir_ + "/data";
  rocks.kv_dtype = kv_dtype;
  HGA_ASSIGN_OR_RETURN(auto tier, OpenRocksTier(rocks));
  if (packed_ram_bytes > 0) tier = std::make_unique<PackedTier>(std::move(tier), packed_ram_bytes);
  StoreLoopOptions options;
  options.arena_path = dir_ + "/arena";
  options.arena_bytes = arena_bytes;
  options.commit_waits_for_disk = commit_waits_for_disk;
  HGA_ASSIGN_OR_RETURN(loop_, StoreLoop::Start(options, std::move(tier), registry_));
  service_ = std::make_unique<KvService>(loop_.get());
  HGA_ASSIGN_OR_RETURN(daemon_, Daemon::Start({"kv_store", address(), ""}, {service_.get()}, registry_));
  daemon_->SetServing(true);
  return absl::OkStatus();
}

void TestingDaemon::Stop(bool flush) {
  if (loop_ == nullptr) return;
  loop_->StopClients();
  if (flush) HGA_CHECK(loop_->Flush(false, std::chrono::seconds(10)).ok());
  daemon_.reset();
  service_.reset();
  loop_.reset();
}

}  // namespace hga
