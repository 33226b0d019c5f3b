#include "kv_store/tool/served_store.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/tool/import.h"

namespace hga {
namespace {

namespace pb = kv_store::v1;

// In place where the arena can be mapped from here, as a worker does it, else as bytes.
absl::StatusOr<std::unique_ptr<GrpcKvClient>> Attach(const std::string& address, const KvGeometry& geometry) {
  HGA_RETURN_IF_ERROR(geometry.Validate());
  GrpcKvClientOptions options;
  options.address = address;
  options.client_name = "hga store import";
  options.geometry = geometry;
  options.fetch_ring = false;
  auto client = GrpcKvClient::Attach(options);
  if (!absl::IsFailedPrecondition(client.status())) return client;
  options.remote_bytes = geometry.layers * geometry.block_bytes();
  return GrpcKvClient::Attach(options);
}

}  // namespace

absl::StatusOr<std::pair<uint64_t, uint64_t>> CompactServed(const std::string& address, const Progress& progress) {
  HGA_RETURN_IF_ERROR(ValidateAddress(address));
  const auto stub = pb::KvStore::NewStub(Connect(address));
  grpc::ClientContext context;
  const auto stream = stub->Compact(&context, pb::CompactRequest());
  pb::CompactProgress now;
  uint64_t before = 0;
  while (stream->Read(&now)) {
    if (before == 0) before = now.disk_bytes();
    if (progress) progress(now.done_bytes(), now.all_bytes());
  }
  HGA_RETURN_IF_ERROR(FromGrpc(stream->Finish()));
  return std::make_pair(before, now.disk_bytes());
}

absl::StatusOr<std::string> ImportServed(const std::string& address, const std::string& as, SessionFileReader* file,
                                         const Progress& progress) {
  HGA_ASSIGN_OR_RETURN(const auto client, Attach(address, file->geometry()));
  HGA_ASSIGN_OR_RETURN(const std::string name, ImportSession(client.get(), as, file, progress));
  const absl::Status flushed = client->Flush(/*drop_ram=*/false);
  if (flushed.ok()) return name;
  return absl::Status(flushed.code(), absl::StrCat("'", name, "' is imported, and not all of it is on disk yet: ",
                                                   std::string(flushed.message())));
}

}  // namespace hga
