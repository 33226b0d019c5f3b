#include "router/client/stream_route_client.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

absl::Span<uint8_t> Bytes(std::string* text) { return {reinterpret_cast<uint8_t*>(text->data()), text->size()}; }

}  // namespace

absl::StatusOr<std::unique_ptr<RouteClient>> StreamRouteClient::Open(std::unique_ptr<RouterAttachment> attachment) {
  std::unique_ptr<StreamRouteClient> client(new StreamRouteClient(std::move(attachment)));
  HGA_RETURN_IF_ERROR(client->Drain());
  return std::unique_ptr<RouteClient>(std::move(client));
}

StreamRouteClient::StreamRouteClient(std::unique_ptr<RouterAttachment> attachment)
    : RemoteRouteClient(std::move(attachment)) {
  stream_ = attachment_->stub()->AsyncRoute(&context_, &queue_, this);
  outstanding_ = 1;
  attachment_->NotifyEnd([this] { context_.TryCancel(); });
}

StreamRouteClient::~StreamRouteClient() {
  attachment_.reset();
  context_.TryCancel();
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

absl::Status StreamRouteClient::Broken(const char* what) {
  broken_ = true;
  context_.TryCancel();
  return absl::UnavailableError(absl::StrCat("the route stream to ", options().address, " broke: ", what));
}

absl::Status StreamRouteClient::Drain() {
  const auto deadline = absl::ToChronoTime(absl::Now() + options().timeout);
  bool good = true;
  while (outstanding_ > 0) {
    void* tag = nullptr;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, deadline) != grpc::CompletionQueue::GOT_EVENT) return Broken("no answer in time");
    --outstanding_;
    good = good && ok;
  }
  return good ? absl::OkStatus() : Broken("the router is gone");
}

absl::Status StreamRouteClient::Post(const RouteRequest& request) {
  if (broken_) return Broken("it broke before");
  if (posted_ != nullptr) return absl::FailedPreconditionError("Post without Wait for the one before");
  const size_t bytes = RouteRequestBytes(options().geometry, request);
  if (bytes > options().max_message_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("route request of ", bytes, " bytes, room for ", options().max_message_bytes));
  }
  sent_.set_worker_id(attachment_->attached().worker_id());
  sent_.mutable_message()->resize(bytes);
  HGA_RETURN_IF_ERROR(
      EncodeRouteRequest(options().geometry, request, Bytes(sent_.mutable_message())).status());
  stream_->Write(sent_, this);
  stream_->Read(&received_, this);
  outstanding_ += 2;
  posted_ = &request;
  ++exchanges_;
  return absl::OkStatus();
}

absl::Status StreamRouteClient::Wait(RouteResponse* response) {
  if (posted_ == nullptr) return absl::FailedPreconditionError("Wait without Post");
  const RouteRequest& request = *std::exchange(posted_, nullptr);
  HGA_RETURN_IF_ERROR(Drain());
  if (received_.code() != 0) return absl::Status(static_cast<absl::StatusCode>(received_.code()), received_.error());
  HGA_ASSIGN_OR_RETURN(*response,
                       DecodeRouteResponse(options().geometry, request, Bytes(received_.mutable_message())));
  return absl::OkStatus();
}

}  // namespace hga
