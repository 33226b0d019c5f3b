// What ring and stream clients have in common: the attachment and its control calls.
#ifndef HGA_ROUTER_CLIENT_REMOTE_ROUTE_CLIENT_H_
#define HGA_ROUTER_CLIENT_REMOTE_ROUTE_CLIENT_H_

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "router/client/route_client.h"
#include "router/client/router_attachment.h"

namespace hga {

class RemoteRouteClient : public RouteClient {
 public:
  absl::StatusOr<uint32_t> OpenSequence(uint64_t sequence_id, absl::Span<const ChunkHash> chunks) override {
    return attachment_->OpenSequence(sequence_id, chunks);
  }
  absl::Status AppendSummary(uint64_t sequence_id, uint32_t chunk_index, const ChunkHash& chunk,
                             const std::string& data) override {
    return attachment_->AppendSummary(sequence_id, chunk_index, chunk, data);
  }
  void CloseSequence(uint64_t sequence_id) override { attachment_->CloseSequence(sequence_id); }
  absl::StatusOr<RouterStats> GetStats() override { return attachment_->GetStats(); }
  std::optional<SelectRules> rules() const override {
    if (!attachment_->attached().has_rules()) return std::nullopt;
    const router::v1::SelectRules& rules = attachment_->attached().rules();
    if (rules.arithmetic() != router::v1::SelectRules::ARITHMETIC_WEIGHTS_16) return std::nullopt;
    return SelectRules{rules.overprovision(), rules.scan_chunks()};
  }
  RouteCounters counters() const override { return {exchanges_.load(), attachment_->rpcs()}; }

 protected:
  explicit RemoteRouteClient(std::unique_ptr<RouterAttachment> attachment) : attachment_(std::move(attachment)) {}
  const RouteAttachOptions& options() const { return attachment_->options(); }

  std::unique_ptr<RouterAttachment> attachment_;
  std::atomic<uint64_t> exchanges_{0};
};

}  // namespace hga

#endif  // HGA_ROUTER_CLIENT_REMOTE_ROUTE_CLIENT_H_
