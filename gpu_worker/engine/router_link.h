// Keeps the worker joined to the router: attaches, notices that it is gone, attaches again.
#ifndef HGA_GPU_WORKER_ENGINE_ROUTER_LINK_H_
#define HGA_GPU_WORKER_ENGINE_ROUTER_LINK_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "router/client/route_client.h"

namespace hga {

// Thread-safe. One thread of its own, which attaches and looks after the connection.
class RouterLink {
 public:
  using Factory = std::function<absl::StatusOr<std::unique_ptr<RouteClient>>()>;
  struct Attachment {
    std::shared_ptr<RouteClient> client;  // nullptr: no router now
    uint64_t generation = 0;              // of this attachment; another one knows nothing of its sequences
  };

  // Tries to attach once before it returns. An empty factory: there is never a router.
  explicit RouterLink(Factory factory, absl::Duration retry = absl::Seconds(1));
  ~RouterLink();

  Attachment current() const;
  bool attached() const { return current().client != nullptr; }
  bool configured() const { return static_cast<bool>(factory_); }
  // The attachment of `generation` is of no use any more. Later calls for the same one do nothing.
  void MarkLost(uint64_t generation, const absl::Status& why);

 private:
  void Loop();
  void TryAttach();

  // Constant after construction.
  const Factory factory_;
  const absl::Duration retry_;

  mutable std::mutex mu_;
  std::condition_variable changed_;
  Attachment attachment_;    // guarded by mu_
  uint64_t generations_ = 0; // guarded by mu_
  std::string last_error_;   // guarded by mu_; logged once
  bool stopping_ = false;    // guarded by mu_

  std::thread thread_;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_ROUTER_LINK_H_
