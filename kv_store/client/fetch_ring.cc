#include "kv_store/client/fetch_ring.h"

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "kv_store/ring/ring_file.h"

namespace hga {

absl::StatusOr<std::unique_ptr<FetchRing>> FetchRing::Open(const std::string& path) {
  HGA_ASSIGN_OR_RETURN(ClientRing ring, ClientRing::Open(path, kFetchRingBytes, RingPollUs()));
  return std::unique_ptr<FetchRing>(new FetchRing(std::move(ring)));
}

std::unique_lock<std::mutex> FetchRing::TryBegin() {
  std::unique_lock<std::mutex> lock(mu_, std::try_to_lock);
  if (lock.owns_lock() && ring_.closed()) lock.unlock();
  return lock;
}

absl::StatusOr<std::vector<RingFetched>> FetchRing::Exchange(RingFetch request, absl::Duration timeout) {
  request.serial = next_serial_++;
  if (const auto posted = ring_.Post([&](absl::Span<uint8_t> slot) { return EncodeRingFetch(request, slot); });
      !posted.ok()) {
    ring_.Close();
    return absl::UnavailableError(posted.message());
  }
  absl::StatusOr<std::vector<RingFetched>> fetched = absl::UnavailableError("no answer");
  HGA_RETURN_IF_ERROR(ring_.Wait(timeout, [&](absl::Span<const uint8_t> message) {
    fetched = DecodeRingFetched(request, message);
    return absl::OkStatus();
  }));
  if (fetched.ok()) return fetched;
  ring_.Close();
  return absl::UnavailableError(absl::StrCat("the ring to kv_store is closed: ", fetched.status().message()));
}

}  // namespace hga
