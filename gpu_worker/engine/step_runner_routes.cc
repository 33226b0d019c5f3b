// What the router is asked in a layer, and what takes its place where it is away.
#include <set>

#include "absl/time/clock.h"
#include "common/base/check.h"
#include "gpu_worker/engine/step_runner.h"

namespace hga {

RouteBlock StepRunner::RouteOf(uint32_t layer, const bf16* queries, const float* attended, Block* block) const {
  RouteBlock route;
  route.sequence_id = block->part->sequence->id;
  route.tokens = block->rows;
  route.first_key = block->shape->sink_tokens;
  route.route_upto = block->routed.end;
  const size_t first_head = size_t{block->first_row} * geometry_.query_heads;
  route.queries = queries + first_head * geometry_.head_dim;
  block->budget->FillRoute(layer, attended == nullptr ? nullptr : attended + first_head, &route);
  return route;
}

void StepRunner::PostRoutes(uint32_t layer) {
  for (RouteRequest* request : {&router_request_, &dense_request_}) {
    request->step = step_;
    request->layer = layer;
    request->blocks.clear();
  }
  router_blocks_.clear();
  dense_blocks_.clear();
  attended_ = nullptr;
  for (Block& block : blocks_) {
    block.selection = nullptr;
    block.missed = nullptr;
    if (block.routed.empty() || !block.part->status.ok()) continue;
    const Sequence& s = *block.part->sequence;
    const bool by_router = s.request->routed && !block.dense && !s.fallback && router_.client != nullptr;
    if (by_router && attended_ == nullptr) attended_ = backend_->LogSumExp();
    (by_router ? router_request_ : dense_request_)
        .blocks.push_back(RouteOf(layer, backend_->queries(), attended_, &block));
    (by_router ? router_blocks_ : dense_blocks_).push_back(&block);
  }
  posted_ = false;
  if (router_blocks_.empty()) return;
  const absl::Status status = router_.client->Post(router_request_);
  posted_ = status.ok();
  if (!posted_) LoseRouter(status);
}

// From here on, and for good, these sequences are attended densely.
void StepRunner::LoseRouter(const absl::Status& why) {
  link_->MarkLost(router_.generation, why);
  router_.client = nullptr;
  for (size_t i = 0; i < router_blocks_.size(); ++i) {
    router_blocks_[i]->part->sequence->fallback = true;
    dense_blocks_.push_back(router_blocks_[i]);
    dense_request_.blocks.push_back(router_request_.blocks[i]);
  }
  router_blocks_.clear();
}

void StepRunner::WaitRoutes() {
  if (posted_) {
    const absl::Time begin = absl::Now();
    const absl::Status status = router_.client->Wait(&router_response_);
    metrics_->ObserveRouteWait(absl::ToDoubleSeconds(absl::Now() - begin));
    std::set<Sequence*> asked;
    for (Block* block : router_blocks_) asked.insert(block->part->sequence);
    const size_t count = router_blocks_.size();
    if (!status.ok() || router_response_.blocks.size() != count || router_response_.missed.size() != count) {
      LoseRouter(status.ok() ? absl::DataLossError("the router answered for another number of blocks") : status);
    } else {
      for (size_t i = 0; i < router_blocks_.size(); ++i) {
        router_blocks_[i]->selection = &router_response_.blocks[i];
        router_blocks_[i]->missed = &router_response_.missed[i];
      }
      for (Sequence* s : asked) s->stats.ring_exchanges += s->answering();
    }
  }
  if (dense_blocks_.empty()) return;
  HGA_CHECK(dense_.Post(dense_request_).ok() && dense_.Wait(&dense_response_).ok());
  for (size_t i = 0; i < dense_blocks_.size(); ++i) dense_blocks_[i]->selection = &dense_response_.blocks[i];
}

const RouteBlock* StepRunner::AskedFor(const Block& block, bool* by_router) const {
  for (size_t i = 0; i < router_blocks_.size(); ++i) {
    *by_router = router_blocks_[i] == &block;
    if (*by_router) return &router_request_.blocks[i];
  }
  for (size_t i = 0; i < dense_blocks_.size(); ++i) {
    if (dense_blocks_[i] == &block) return &dense_request_.blocks[i];
  }
  return nullptr;
}

}  // namespace hga
