// Summaries from kv_store: the one place where the router knows that service.
#ifndef HGA_ROUTER_SERVICE_KV_SUMMARY_SOURCE_H_
#define HGA_ROUTER_SERVICE_KV_SUMMARY_SOURCE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kv_store/client/kv_client.h"
#include "router/index/summary_index.h"

namespace hga {

using KvAttach = std::function<absl::StatusOr<std::unique_ptr<KvClient>>()>;

// Attaches when it is first needed, and tries again at most once a second while that fails.
SummarySource KvSummarySource(KvAttach attach);
// The store at `address`.
KvAttach AttachKvStore(const std::string& address);

}  // namespace hga

#endif  // HGA_ROUTER_SERVICE_KV_SUMMARY_SOURCE_H_
