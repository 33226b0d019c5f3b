#include "router/service/kv_summary_source.h"

#include <mutex>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/status.h"

namespace hga {
namespace {

constexpr absl::Duration kRetryAfter = absl::Seconds(1);

// Thread-safe.
class LazyKvClient {
 public:
  explicit LazyKvClient(KvAttach attach) : attach_(std::move(attach)) {}

  // The client, once attached, lives as long as this object and re-attaches by itself.
  absl::StatusOr<KvClient*> Get() {
    std::lock_guard<std::mutex> lock(mu_);
    if (client_ != nullptr) return client_.get();
    if (absl::Now() < retry_at_) return last_error_;
    auto client = attach_();
    if (client.ok()) {
      client_ = *std::move(client);
      return client_.get();
    }
    last_error_ = client.status();
    retry_at_ = absl::Now() + kRetryAfter;
    return last_error_;
  }

 private:
  const KvAttach attach_;
  std::mutex mu_;
  // Guarded by mu_.
  std::unique_ptr<KvClient> client_;
  absl::Status last_error_;
  absl::Time retry_at_ = absl::InfinitePast();
};

}  // namespace

SummarySource KvSummarySource(KvAttach attach) {
  auto lazy = std::make_shared<LazyKvClient>(std::move(attach));
  return [lazy](absl::Span<const ChunkHash> chunks, const SummarySink& sink) -> absl::Status {
    HGA_ASSIGN_OR_RETURN(KvClient* const client, lazy->Get());
    return client->GetSummaries(chunks, sink);
  };
}

}  // namespace hga
