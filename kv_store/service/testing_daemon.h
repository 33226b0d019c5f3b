// A whole kv_store in the test's process, at a Unix socket in a fresh folder. Tests only.
#ifndef HGA_KV_STORE_SERVICE_TESTING_DAEMON_H_
#define HGA_KV_STORE_SERVICE_TESTING_DAEMON_H_

#include <functional>
#include <memory>
#include <string>

#include "common/kv/geometry.h"
#include "common/kv/kv_dtype.h"
#include "common/rpc/daemon.h"
#include "kv_store/service/kv_service.h"
#include "kv_store/store/store_loop.h"

namespace hga {

// Waits for something that happens on another thread; false after 10 s.
bool Eventually(const std::function<bool()>& condition);

// Three layers of one KV head, with blocks of 4 KiB.
KvGeometry GeometryOfPages();

class TestingDaemon {
 public:
  // Fails the process if the folder cannot be made.
  TestingDaemon();
  ~TestingDaemon();  // removes the folder

  // Starts, or starts again on the same data.
  absl::Status Start(uint64_t arena_bytes, bool commit_waits_for_disk = false, KvDtype kv_dtype = KvDtype::kBf16,
                     uint64_t packed_ram_bytes = 0);
  // `flush`: as SIGTERM does; otherwise what is not durable is lost.
  void Stop(bool flush);

  std::string address() const { return "unix:" + dir_ + "/s"; }
  const std::string& dir() const { return dir_; }
  StoreLoop* loop() { return loop_.get(); }
  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

 private:
  std::string dir_;
  std::shared_ptr<prometheus::Registry> registry_;
  std::unique_ptr<StoreLoop> loop_;
  std::unique_ptr<KvService> service_;
  std::unique_ptr<Daemon> daemon_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_SERVICE_TESTING_DAEMON_H_
