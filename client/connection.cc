#include "client/connection.h"

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "grpcpp/channel.h"

namespace hga {
namespace {

constexpr char kPackagedWorker[] = "unix:/run/hga/gpu_worker.sock";
constexpr auto kConnectTimeout = std::chrono::seconds(5);

}  // namespace

std::string DefaultWorkerAddress(const std::string& folder) {
  const char* set = std::getenv("HGA_WORKER");
  if (set != nullptr && *set != '\0') return set;
  for (std::filesystem::path at = folder; !at.empty(); at = at.parent_path()) {
    std::ifstream file(at / ".hga/run/worker_address");
    std::string address;
    if (std::getline(file, address) && !address.empty()) return address;
    if (at == at.parent_path()) break;
  }
  return kPackagedWorker;
}

absl::StatusOr<std::unique_ptr<WorkerStub>> ConnectToWorker(const std::string& address) {
  HGA_RETURN_IF_ERROR(ValidateAddress(address));
  const auto channel = Connect(address);
  const auto deadline = std::chrono::system_clock::now() + kConnectTimeout;
  // Fails at the first refusal instead of trying until the deadline.
  grpc_connectivity_state state = channel->GetState(true);
  while (state != GRPC_CHANNEL_READY && state != GRPC_CHANNEL_TRANSIENT_FAILURE) {
    if (!channel->WaitForStateChange(state, deadline)) break;
    state = channel->GetState(true);
  }
  if (state != GRPC_CHANNEL_READY)
    return absl::UnavailableError(absl::StrCat("no worker answers at ", address));
  return gpu_worker::v1::GpuWorker::NewStub(channel);
}

void SetTimeout(double seconds, grpc::ClientContext* context) {
  if (!(seconds > 0)) return;  // nan, too, which the range of --timeout lets through
  const auto span = std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6));
  context->set_deadline(std::chrono::system_clock::now() + span);
}

}  // namespace hga
