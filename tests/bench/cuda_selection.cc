#include "tests/bench/cuda_selection.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/kv/route_fixture.h"
#include "common/kv/summary.h"
#include "gpu_worker/backend/cuda/device_route_client.h"
#include "router/client/local_route_client.h"

namespace hga {
namespace {

constexpr uint64_t kSequence = 1;
// Chunks with summaries of their own; the others repeat them.
constexpr uint32_t kDifferent = 8;

// A decoding token's exchange, for any layer.
class Exchange {
 public:
  Exchange(const KvGeometry& g, uint32_t chunks)
      : budget_(std::clamp(chunks * g.chunk_tokens / 10, 512u, 4096u)),
        queries_(RandomBf16(size_t{g.query_heads} * g.head_dim, 99)), attended_(g.query_heads, 3.0f) {
    RouteBlock block;
    block.sequence_id = kSequence;
    block.tokens = 1;
    block.first_key = g.group_tokens;
    block.route_upto = chunks;
    block.budget_keys = &budget_;
    block.queries = queries_.data();
    block.shared = true;
    block.attended = attended_.data();
    block.least_share = 0.03f / static_cast<float>(budget_);
    request_.blocks = {block};
  }

  absl::StatusOr<RouteResponse> Ask(RouteClient* client, uint32_t layer) {
    request_.layer = layer;
    RouteResponse response;
    HGA_RETURN_IF_ERROR(client->Post(request_));
    HGA_RETURN_IF_ERROR(client->Wait(&response));
    return response;
  }
  // Median seconds, layer after layer.
  absl::StatusOr<double> Seconds(RouteClient* client, uint32_t layers, int rounds) {
    std::vector<double> samples;
    for (int i = 0; i < rounds; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      HGA_RETURN_IF_ERROR(Ask(client, static_cast<uint32_t>(i) % layers).status());
      samples.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return Quantile(&samples, 0.5);
  }

 private:
  const uint32_t budget_;
  const std::vector<bf16> queries_;
  const std::vector<float> attended_;
  RouteRequest request_;
};

}  // namespace

absl::Status MeasureSelection(Device* device, const ModelConfig& config, uint32_t tokens, bool quick, Report* report) {
  const KvGeometry g = config.Geometry();
  const uint32_t chunks = tokens / g.chunk_tokens;
  HGA_ASSIGN_OR_RETURN(const SummaryMethod* method, FindSummaryMethod("dealt", g, MadeUpEnergies(g)));
  LocalRouteClient router(g, method);
  if (!router.rules().has_value()) return absl::UnimplementedError("sums of this CPU are not repeated on the device");
  RouteMirrorPlan plan;
  for (uint64_t bytes = 1 << 20; plan.chunks < chunks; bytes *= 2) plan = RouteMirror::Plan(g, "dealt", bytes);
  DeviceMemory memory(device, plan.bytes);
  HGA_ASSIGN_OR_RETURN(auto mirror, RouteMirror::Create(device, &memory, g, plan));
  DeviceRouteClient mirrored(std::make_unique<LocalRouteClient>(g, method), mirror.get(), method, nullptr);
  std::vector<std::string> data;
  for (uint32_t i = 0; i < kDifferent; ++i) data.push_back(SummaryData(g, *method, i));
  for (RouteClient* client : {static_cast<RouteClient*>(&router), static_cast<RouteClient*>(&mirrored)}) {
    HGA_RETURN_IF_ERROR(client->OpenSequence(kSequence, {}).status());
    for (uint32_t c = 0; c < chunks; ++c) {
      HGA_RETURN_IF_ERROR(client->AppendSummary(kSequence, c, HashBytes(std::to_string(c)), data[c % kDifferent]));
    }
  }
  Exchange exchange(g, chunks);
  const int rounds = quick ? 2 * static_cast<int>(g.layers) : 8 * static_cast<int>(g.layers);
  for (uint64_t before = 0; mirror->use().on_device == before;) {  // until all summaries are there
    HGA_RETURN_IF_ERROR(exchange.Ask(&mirrored, 0).status());
  }
  HGA_ASSIGN_OR_RETURN(const RouteResponse theirs, exchange.Ask(&router, 0));
  HGA_ASSIGN_OR_RETURN(const RouteResponse ours, exchange.Ask(&mirrored, 0));
  if (!(theirs.blocks == ours.blocks)) return absl::InternalError("the device selects other keys than the router");
  HGA_ASSIGN_OR_RETURN(const double on_router, exchange.Seconds(&router, g.layers, rounds));
  HGA_ASSIGN_OR_RETURN(const double on_device, exchange.Seconds(&mirrored, g.layers, rounds));
  const std::string at = absl::StrCat(tokens / 1024, "k");
  report->Add("select_router_ms_" + at, "a layer's selection at " + at + ", on the router", on_router * 1e3, "ms");
  report->Add("select_device_ms_" + at, "  on the device", on_device * 1e3, "ms");
  report->Add("select_router_of_device_" + at, "  times as long on the router", on_router / on_device, "");
  return absl::OkStatus();
}

}  // namespace hga
