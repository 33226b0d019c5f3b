// A router in the test's process, served on a Unix socket.
#ifndef HGA_ROUTER_SERVICE_ROUTER_FIXTURE_H_
#define HGA_ROUTER_SERVICE_ROUTER_FIXTURE_H_

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "common/base/check.h"
#include "common/rpc/daemon.h"
#include "router/service/router_service.h"

namespace hga {

class RouterFixture {
 public:
  explicit RouterFixture(SummarySource source = nullptr, SummaryIndexOptions options = {}) {
    char folder[] = "/tmp/hga.XXXXXX";
    HGA_CHECK(mkdtemp(folder) != nullptr);
    folder_ = folder;
    registry_ = std::make_shared<prometheus::Registry>();
    metrics_ = std::make_unique<RouterMetrics>(registry_);
    index_ = std::make_unique<SummaryIndex>(options, std::move(source));
    RouterServiceOptions service_options;
    service_options.ring_dir = folder_;
    service_ = std::make_unique<RouterService>(service_options, index_.get(), metrics_.get());
    auto daemon = Daemon::Start({"router", address(), "", 500}, {service_.get()}, registry_);
    HGA_CHECK(daemon.ok());
    daemon_ = *std::move(daemon);
  }
  ~RouterFixture() {
    Stop();
    std::filesystem::remove_all(folder_);
  }

  void Stop() {
    service_->StopWorkers();
    daemon_.reset();
  }
  std::string address() const { return "unix:" + folder_ + "/router.sock"; }
  const std::string& folder() const { return folder_; }
  const SummaryIndex& index() const { return *index_; }
  const RouterMetrics& metrics() const { return *metrics_; }

 private:
  std::string folder_;
  std::shared_ptr<prometheus::Registry> registry_;
  std::unique_ptr<RouterMetrics> metrics_;
  std::unique_ptr<SummaryIndex> index_;
  std::unique_ptr<RouterService> service_;
  std::unique_ptr<Daemon> daemon_;
};

}  // namespace hga

#endif  // HGA_ROUTER_SERVICE_ROUTER_FIXTURE_H_
