#include "kv_store/client/grpc_kv_client.h"
#include "router/service/kv_summary_source.h"

namespace hga {

KvAttach AttachKvStore(const std::string& address) {
  return [address]() -> absl::StatusOr<std::unique_ptr<KvClient>> {
    GrpcKvClientOptions options;
    options.address = address;
    options.client_name = "router";
    options.attach_timeout_ms = 1000;
    auto client = GrpcKvClient::Attach(options);
    if (!client.ok()) return client.status();
    return std::unique_ptr<KvClient>(*std::move(client));
  };
}

}  // namespace hga
