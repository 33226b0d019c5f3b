// kv_store's end of one client's ring, with the thread that answers on it.
#ifndef HGA_KV_STORE_SERVICE_FETCH_RING_SERVER_H_
#define HGA_KV_STORE_SERVICE_FETCH_RING_SERVER_H_

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/shm/ring.h"
#include "kv_store/ring/fetch_message.h"
#include "kv_store/store/store_loop.h"

namespace hga {

// Lives as long as the client's stream, at most. The thread polls while the client asks again soon after its last
// answer; otherwise it sleeps. Destroying it closes the ring, waits for an exchange under way and removes the file.
class FetchRingServer {
 public:
  // Makes the file. `loop` must outlive it.
  static absl::StatusOr<std::unique_ptr<FetchRingServer>> Start(const std::string& path, ClientId client,
                                                                StoreLoop* loop);
  ~FetchRingServer();

  const std::string& path() const { return path_; }
  // The client closed the ring, or sent what is no message: it has to attach again.
  bool closed() const { return ring_.closed(); }

 private:
  FetchRingServer(std::string path, ServerRing ring, ClientId client, StoreLoop* loop);
  void Serve();
  absl::StatusOr<std::vector<FetchOutcome>> Do(const RingFetch& request);

  const std::string path_;
  ServerRing ring_;
  const ClientId client_;
  StoreLoop* const loop_;
  std::thread thread_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_SERVICE_FETCH_RING_SERVER_H_
