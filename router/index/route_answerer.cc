#include "router/index/route_answerer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {

absl::Status RouteAnswerer::Answer(absl::Span<const uint8_t> message) {
  HGA_ASSIGN_OR_RETURN(const RouteRequest request, DecodeRouteRequest(geometry_, message));
  return Answer(request, &response_);
}

absl::Status RouteAnswerer::Answer(const RouteRequest& request, RouteResponse* response) {
  if (request.layer >= geometry_.layers) {
    return absl::InvalidArgumentError(absl::StrCat("layer ", request.layer, " of ", geometry_.layers));
  }
  response->step = request.step;
  response->layer = request.layer;
  response->blocks.resize(request.blocks.size());
  response->missed.resize(request.blocks.size());
  const auto blocks = static_cast<uint32_t>(request.blocks.size());
  const auto answer = [&](uint32_t b, SelectScratch* scratch, Helpers* helpers) {
    return AnswerBlock(request.layer, request.blocks[b], scratch, helpers, &response->blocks[b], &response->missed[b]);
  };
  // One block's KV heads are shared out over the threads (decode), or several blocks (prefill).
  if (blocks == 1) return answer(0, &scratch_[0], &helpers_);
  statuses_.assign(blocks, absl::OkStatus());
  helpers_.Run(blocks, [&](uint32_t b, uint32_t thread) { statuses_[b] = answer(b, &scratch_[thread], nullptr); });
  for (const absl::Status& status : statuses_) HGA_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

SelectTimes RouteAnswerer::TakeTimes() {
  SelectTimes times;
  for (SelectScratch& scratch : scratch_) times += std::exchange(scratch.times, SelectTimes());
  return times;
}

absl::Status RouteAnswerer::AnswerBlock(uint32_t layer, const RouteBlock& block, SelectScratch* scratch,
                                        Helpers* helpers, std::vector<HeadSelection>* heads,
                                        std::vector<float>* missed) {
  const auto sequence = index_->Find(worker_id_, block.sequence_id);
  if (sequence == nullptr) return absl::NotFoundError(absl::StrCat("sequence ", block.sequence_id, " is not open"));
  if (block.route_upto > sequence->chunks()) {
    return absl::FailedPreconditionError(
        absl::StrCat("chunks up to ", block.route_upto, " asked for, ", sequence->chunks(), " indexed"));
  }
  heads->resize(geometry_.kv_heads);
  missed->resize(block.residual ? size_t{block.tokens} * geometry_.query_heads : 0);
  Select(*sequence, layer, block, options_, scratch, heads->data(), missed->data(), helpers);
  return absl::OkStatus();
}

}  // namespace hga
