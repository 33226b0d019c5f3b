// A client's end of its ring to kv_store.
#ifndef HGA_KV_STORE_CLIENT_FETCH_RING_H_
#define HGA_KV_STORE_CLIENT_FETCH_RING_H_

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/shm/ring.h"
#include "kv_store/ring/fetch_message.h"

namespace hga {

// Thread-safe. One exchange at a time: it may wait for the disk, so whoever finds one under way goes by gRPC.
class FetchRing {
 public:
  static absl::StatusOr<std::unique_ptr<FetchRing>> Open(const std::string& path);

  // The right to one exchange; owns nothing if another is under way or the ring is closed.
  std::unique_lock<std::mutex> TryBegin();
  // While TryBegin's lock is held; `request` fits (FitsRing), its serial is filled in. One result per block, in order.
  // The store's own error is returned as it was sent. UNAVAILABLE with closed(): nobody knows what the store made of
  // it.
  absl::StatusOr<std::vector<RingFetched>> Exchange(RingFetch request, absl::Duration timeout);

  // Ends an exchange under way. Any thread.
  void Close() { ring_.Close(); }
  bool closed() const { return ring_.closed(); }

 private:
  explicit FetchRing(ClientRing ring) : ring_(std::move(ring)) {}

  std::mutex mu_;
  ClientRing ring_;          // posted to and waited for under mu_
  uint64_t next_serial_ = 1;  // guarded by mu_
};

}  // namespace hga

#endif  // HGA_KV_STORE_CLIENT_FETCH_RING_H_
