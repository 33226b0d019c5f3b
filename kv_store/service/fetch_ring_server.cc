#include "kv_store/service/fetch_ring_server.h"

#include <unistd.h>

#include <utility>

#include "absl/time/clock.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "kv_store/ring/ring_file.h"

namespace hga {

absl::StatusOr<std::unique_ptr<FetchRingServer>> FetchRingServer::Start(const std::string& path, ClientId client,
                                                                        StoreLoop* loop) {
  HGA_ASSIGN_OR_RETURN(ServerRing ring, ServerRing::Create(path, kFetchRingBytes, /*spin_us=*/0));
  std::unique_ptr<FetchRingServer> server(new FetchRingServer(path, std::move(ring), client, loop));
  server->thread_ = std::thread(&FetchRingServer::Serve, server.get());
  return server;
}

FetchRingServer::FetchRingServer(std::string path, ServerRing ring, ClientId client, StoreLoop* loop)
    : path_(std::move(path)), ring_(std::move(ring)), client_(client), loop_(loop) {}

FetchRingServer::~FetchRingServer() {
  ring_.Close();
  thread_.join();
  ::unlink(path_.c_str());
}

void FetchRingServer::Serve() {
  const int poll_us = RingPollUs();
  absl::Time answered = absl::InfinitePast();
  for (;;) {
    const auto posted = ring_.WaitPosted(absl::InfiniteDuration());
    if (absl::IsDeadlineExceeded(posted.status())) continue;
    if (!posted.ok()) return;
    ring_.set_spin_us(absl::Now() - answered < absl::Microseconds(poll_us) ? poll_us : 0);
    const auto request = DecodeRingFetch(*posted);
    if (!request.ok()) {
      LogWarning("a client's ring is closed", {{"client", client_}, {"error", request.status().message()}});
      ring_.Close();
      return;
    }
    const auto outcomes = Do(*request);
    const absl::Status sent = ring_.Answer([&](absl::Span<uint8_t> slot) -> absl::StatusOr<size_t> {
      HGA_RETURN_IF_ERROR(outcomes.status());
      std::vector<RingFetched> blocks;
      for (const FetchOutcome& o : *outcomes) blocks.push_back({o.status.code(), o.slot, o.from_disk});
      return EncodeRingFetched(request->serial, blocks, slot);
    });
    if (!sent.ok()) return;
    answered = absl::Now();
  }
}

absl::StatusOr<std::vector<FetchOutcome>> FetchRingServer::Do(const RingFetch& request) {
  loop_->CountRingExchange();
  if (!request.releases.empty()) HGA_RETURN_IF_ERROR(loop_->Release(client_, request.releases));
  if (request.blocks.empty()) return std::vector<FetchOutcome>();
  return loop_->Fetch(client_, request.blocks);
}

}  // namespace hga
