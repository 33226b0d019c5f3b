#include "router/index/route_answerer.h"

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
  for (size_t b = 0; b < request.blocks.size(); ++b) {
    HGA_RETURN_IF_ERROR(AnswerBlock(request.layer, request.blocks[b], &response->blocks[b], &response->missed[b]));
  }
  return absl::OkStatus();
}

absl::Status RouteAnswerer::AnswerBlock(uint32_t layer, const RouteBlock& block, std::vector<HeadSelection>* heads,
                                        std::vector<float>* missed) {
  const auto sequence = index_->Find(worker_id_, block.sequence_id);
  if (sequence == nullptr) return absl::NotFoundError(absl::StrCat("sequence ", block.sequence_id, " is not open"));
  if (block.route_upto > sequence->chunks()) {
    return absl::FailedPreconditionError(
        absl::StrCat("chunks up to ", block.route_upto, " asked for, ", sequence->chunks(), " indexed"));
  }
  heads->resize(geometry_.kv_heads);
  missed->resize(block.residual ? size_t{block.tokens} * geometry_.query_heads : 0);
  Select(*sequence, layer, block, options_, &scratch_, heads->data(), missed->data());
  return absl::OkStatus();
}

}  // namespace hga
