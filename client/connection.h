// Finds the worker and talks to it.
#ifndef HGA_CLIENT_CONNECTION_H_
#define HGA_CLIENT_CONNECTION_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/client_context.h"
#include "proto/gpu_worker/v1/gpu_worker.grpc.pb.h"

namespace hga {

using WorkerStub = gpu_worker::v1::GpuWorker::Stub;

// HGA_WORKER of the environment; else what deploy/stack.sh left in .hga/run/worker_address of `folder` or of
// a folder above it; else the packaged worker's socket.
std::string DefaultWorkerAddress(const std::string& folder);

// UNAVAILABLE if nothing answers at `address`; INVALID_ARGUMENT if it is no address.
absl::StatusOr<std::unique_ptr<WorkerStub>> ConnectToWorker(const std::string& address);

// Seconds from now; 0: none.
void SetTimeout(double seconds, grpc::ClientContext* context);

}  // namespace hga

#endif  // HGA_CLIENT_CONNECTION_H_
