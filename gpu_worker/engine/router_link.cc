#include "gpu_worker/engine/router_link.h"

#include <utility>

#include "common/base/log.h"

namespace hga {

RouterLink::RouterLink(Factory factory, absl::Duration retry) : factory_(std::move(factory)), retry_(retry) {
  if (!factory_) return;
  TryAttach();
  thread_ = std::thread([this] { Loop(); });
}

RouterLink::~RouterLink() {
  {
    std::lock_guard<std::mutex> lock(mu_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

RouterLink::Attachment RouterLink::current() const {
  std::lock_guard<std::mutex> lock(mu_);
  return attachment_;
}

void RouterLink::MarkLost(uint64_t generation, const absl::Status& why) {
  Attachment lost;  // the client ends outside the lock
  std::lock_guard<std::mutex> lock(mu_);
  if (attachment_.generation != generation || attachment_.client == nullptr) return;
  lost = std::exchange(attachment_, Attachment{nullptr, generation});
  last_error_ = std::string(why.message());
  LogWarning("router lost, attention is dense until it is back", {{"error", last_error_}});
}

void RouterLink::TryAttach() {
  auto client = factory_();
  std::lock_guard<std::mutex> lock(mu_);
  if (client.ok()) {
    attachment_ = {std::shared_ptr<RouteClient>(*std::move(client)), ++generations_};
    last_error_.clear();
    LogInfo("router attached");
    return;
  }
  const std::string error(client.status().message());
  if (error != last_error_) LogWarning("no router, attention is dense", {{"error", error}});
  last_error_ = error;
}

void RouterLink::Loop() {
  std::unique_lock<std::mutex> lock(mu_);
  while (!stopping_) {
    changed_.wait_for(lock, absl::ToChronoMilliseconds(retry_), [&] { return stopping_; });
    if (stopping_) return;
    const Attachment now = attachment_;
    lock.unlock();
    if (now.client == nullptr) {
      TryAttach();
    } else if (!now.client->connected()) {
      MarkLost(now.generation, absl::UnavailableError("the connection has ended"));
    }
    lock.lock();
  }
}

}  // namespace hga
