#include "common/rpc/health.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/health.grpc.pb.h"
#include "grpcpp/client_context.h"

namespace hga {
namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckResponse;

constexpr std::chrono::milliseconds kOneAnswer(1000);
constexpr std::chrono::milliseconds kBetween(50);

}  // namespace

absl::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel, std::chrono::milliseconds timeout) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout);
  HealthCheckResponse response;
  const grpc::Status status = Health::NewStub(channel)->Check(&context, {}, &response);
  if (!status.ok()) return absl::UnavailableError(absl::StrCat("no health: ", status.error_message()));
  if (response.status() == HealthCheckResponse::SERVING) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("health is ", HealthCheckResponse::ServingStatus_Name(response.status())));
}

absl::Status WaitHealthy(const std::string& address, std::chrono::milliseconds wait) {
  HGA_RETURN_IF_ERROR(ValidateAddress(address));
  const auto deadline = std::chrono::steady_clock::now() + wait;
  for (;;) {
    // A new channel each time: one that has failed once backs off.
    const absl::Status status = CheckHealth(Connect(address), kOneAnswer);
    if (status.ok()) return status;
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::UnavailableError(absl::StrCat(address, ": ", std::string(status.message())));
    }
    std::this_thread::sleep_for(kBetween);
  }
}

}  // namespace hga
