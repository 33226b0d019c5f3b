#include "router/client/local_route_client.h"

#include <utility>

#include "router/index/route_answerer.h"
#include "router/index/summary_index.h"

namespace hga {
namespace {

constexpr uint64_t kWorker = 1;

}  // namespace

LocalRouteClient::LocalRouteClient(const KvGeometry& geometry, const SummaryMethod* method,
                                   const SelectOptions& options)
    : geometry_(geometry),
      method_(method),
      options_(options),
      index_(std::make_unique<SummaryIndex>(SummaryIndexOptions{}, nullptr)),
      answerer_(std::make_unique<RouteAnswerer>(index_.get(), kWorker, geometry, options)) {}

LocalRouteClient::~LocalRouteClient() = default;

absl::StatusOr<uint32_t> LocalRouteClient::OpenSequence(uint64_t sequence_id, absl::Span<const ChunkHash> chunks) {
  ++rpcs_;
  const auto opened = index_->Open(kWorker, sequence_id, geometry_, method_, chunks);
  if (!opened.ok()) return opened.status();
  return opened->indexed_chunks;
}

absl::Status LocalRouteClient::AppendSummary(uint64_t sequence_id, uint32_t chunk_index, const ChunkHash& chunk,
                                             const std::string& data) {
  ++rpcs_;
  return index_->Append(kWorker, sequence_id, chunk_index, chunk, data).status();
}

void LocalRouteClient::CloseSequence(uint64_t sequence_id) {
  ++rpcs_;
  index_->Close(kWorker, sequence_id);
}

std::optional<SelectRules> LocalRouteClient::rules() const {
  if (!Reproducible(options_)) return std::nullopt;
  return SelectRules{options_.overprovision, options_.scan_chunks};
}

absl::Status LocalRouteClient::Post(const RouteRequest& request) {
  if (posted_ != nullptr) return absl::FailedPreconditionError("Post without Wait for the one before");
  posted_ = &request;
  return absl::OkStatus();
}

absl::Status LocalRouteClient::Wait(RouteResponse* response) {
  if (posted_ == nullptr) return absl::FailedPreconditionError("Wait without Post");
  ++exchanges_;
  return answerer_->Answer(*std::exchange(posted_, nullptr), response);
}

}  // namespace hga
