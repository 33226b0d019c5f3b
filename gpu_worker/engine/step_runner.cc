#include "gpu_worker/engine/step_runner.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/check.h"
#include "common/base/status.h"

namespace hga {

StepRunner::StepRunner(Backend* backend, KvClient* store, RouterLink* link, EngineMetrics* metrics,
                       StepTrace* trace, const AttendShapes& shapes, bool early_selection, KeyCache* keys,
                       StepRoom room)
    : backend_(backend), store_(store), link_(link), metrics_(metrics), trace_(trace), shapes_(shapes),
      geometry_(shapes_.prefill.geometry), keys_(keys), room_(std::move(room)), dense_(geometry_),
      early_(early_selection ? std::make_unique<EarlyFetch>(store) : nullptr) {}

absl::Status StepRunner::Run(std::vector<StepPart>* parts, StepLogits* logits) {
  StepTrace::Span span(trace_, "lay_out");
  ++step_;
  began_ = absl::Now();
  counts_ = {};
  if (keys_ != nullptr) keys_->BeginStep();
  fetched_.clear();
  DropGuess();  // of a step that failed
  router_ = link_->current();
  LayOut(parts);
  span.Next("embedding");
  HGA_RETURN_IF_ERROR(backend_->Begin(rows_));
  span.Next("layers");
  const auto left = [parts] {
    return std::any_of(parts->begin(), parts->end(), [](const StepPart& part) { return part.status.ok(); });
  };
  for (uint32_t layer = 0; layer < geometry_.layers && left(); ++layer) HGA_RETURN_IF_ERROR(RunLayer(layer));
  span.Next("report");
  router_ = {};
  if (keys_ != nullptr) keys_->BeginLayer();  // until the next step nothing of it is read
  Report();
  span.Next("logits");
  return left() ? TakeLogits(*parts, logits) : absl::OkStatus();
}

absl::Status StepRunner::TakeLogits(const std::vector<StepPart>& parts, StepLogits* logits) {
  logits->all.clear();
  logits->top.clear();
  logits->top_count = 0;
  bool wanted = false, all = false;
  std::vector<TopRow> rows;
  for (const StepPart& part : parts) {
    if (!part.want_logits) continue;
    Sequence& s = *part.sequence;
    const uint32_t needed = s.sampler.top_needed();
    rows.push_back(s.sampler.top_row(s.tokens, backend_->vocab_size()));
    wanted = true;
    all |= needed == 0;
    logits->top_count = std::max(logits->top_count, std::min(needed, backend_->vocab_size()));
  }
  if (!wanted) return absl::OkStatus();
  if (!all) return backend_->TopLogits(logits->top_count, rows, &logits->top, &logits->masses);
  return TakeAllLogits(logits);
}

absl::Status StepRunner::TakeAllLogits(StepLogits* logits) {
  logits->top_count = 0;
  return backend_->Logits(&logits->all);
}

void StepRunner::LayOut(std::vector<StepPart>* parts) {
  rows_.clear();
  blocks_.clear();
  uint32_t logits_rows = 0;
  for (StepPart& part : *parts) {
    const Sequence& s = *part.sequence;
    if (part.want_logits) part.logits_row = logits_rows++;
    for (uint32_t i = 0; i < part.rows; ++i) {
      const uint32_t position = s.computed + i;
      if (i == 0 || position % blocks_.back().most_rows == 0) {
        Block block;
        block.part = &part;
        block.chunk = position / geometry_.chunk_tokens;
        block.first_row = static_cast<uint32_t>(rows_.size());
        block.first_position = position;
        block.shape = s.decoding() ? &shapes_.decode : &shapes_.prefill;
        block.dense = position < (s.decoding() ? s.request->budget.dense_decode_tokens : shapes_.dense_prefill_tokens);
        block.routed = RoutedChunks(*block.shape, block.chunk);
        const bool selects = s.request->routed && !block.dense && !block.routed.empty();
        block.most_rows = selects ? block.shape->block_tokens : geometry_.chunk_tokens;
        blocks_.push_back(std::move(block));
      }
      ++blocks_.back().rows;
      rows_.push_back({s.tokens[position], position, part.want_logits && i + 1 == part.rows});
    }
  }
  plan_.sum_values = false;
  for (Block& block : blocks_) {
    SetBudget(&block);
    const EngineRequest& request = *block.part->sequence->request;
    plan_.sum_values |= request.budget.residual && request.routed && !block.dense && !block.routed.empty();
  }
}

void StepRunner::SetBudget(Block* block) const {
  const Sequence& s = *block->part->sequence;
  const auto keys = s.decoding() ? BudgetKeys : PrefillBudgetKeys;
  std::vector<uint32_t> budgets;
  for (uint32_t i = 0; i < block->rows; ++i) {
    budgets.push_back(keys(*block->shape, s.request->budget, block->first_position + i));
  }
  RouteBlock range;
  range.first_key = block->shape->sink_tokens;
  range.route_upto = block->routed.end;
  block->budget.emplace(s.request->budget, geometry_, std::move(budgets), range.keys(geometry_));
}

absl::Status StepRunner::RunLayer(uint32_t layer) {
  const StepTrace::Span whole(trace_, "layer", {"layer", layer});
  StepTrace::Span stage(trace_, "pre_attention", {"layer", layer});
  ++tick_;
  kv_rows_.clear();
  for (const Block& block : blocks_) {
    void* data = block.part->sequence->blocks.Find(block.chunk, layer);
    HGA_CHECK(data != nullptr);
    for (uint32_t i = 0; i < block.rows; ++i) {
      kv_rows_.push_back({data, (block.first_position + i) % geometry_.chunk_tokens});
    }
  }
  HGA_RETURN_IF_ERROR(backend_->PreAttention(layer, kv_rows_));
  stage.Next("window_attention");
  // First what is attended anyway: what a key is worth shows only beside it.
  HGA_RETURN_IF_ERROR(AttendAlways(layer));
  stage.Next("post_queries");
  PostRoutes(layer);
  stage.Next("wait_selection");
  WaitRoutes();
  stage.Next("fetch");
  FindKeys(layer);
  TakeEarlyBlocks(layer);
  FetchMissing(layer);
  FillKeyCache(layer);
  stage.Next("count_keys");
  AnswerProbes(layer);
  CountKeys();
  PostGuess(layer + 1);
  stage.Next("routed_attention");
  HGA_RETURN_IF_ERROR(AttendSelected(layer));
  if (plan_.sum_values) HGA_RETURN_IF_ERROR(AddResidual());
  GiveBackFetched(layer);
  stage.Next("post_attention");
  HGA_RETURN_IF_ERROR(backend_->PostAttention(layer));
  return FollowGuess(layer + 1);
}

// A chunk that this step computes in part is not there yet.
absl::Span<const ChunkHash> StepRunner::Finished(const Block& block) const {
  const Sequence& s = *block.part->sequence;
  return absl::MakeConstSpan(s.hashes).first(std::min<size_t>(s.hashes.size(), s.computed / geometry_.chunk_tokens));
}

absl::Status StepRunner::AttendAlways(uint32_t layer) {
  plan_.blocks.resize(blocks_.size());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& b = blocks_[i];
    BlockSet& held = b.part->sequence->blocks;
    PlanMandatory(*b.shape, b.first_row, b.rows, b.first_position, [&](uint32_t chunk) -> const void* {
      const void* data = held.Find(chunk, layer);
      HGA_CHECK(data != nullptr);
      return data;
    }, &plan_.blocks[i]);
    plan_.blocks[i].finished = Finished(b);
  }
  return backend_->Attend(plan_);
}

absl::Status StepRunner::AttendSelected(uint32_t layer) {
  size_t used = 0;
  for (const Block& b : blocks_) {
    if (b.selection == nullptr || !b.part->status.ok()) continue;
    if (plan_.blocks.size() <= used) plan_.blocks.emplace_back();
    QueryBlock* const out = &plan_.blocks[used++];
    if (b.by_keys) {
      keys_->Plan(*b.shape, b.first_row, b.rows, *b.selection, HeldBlocks(b, layer), b.found, out);
    } else {
      PlanRouted(*b.shape, b.first_row, b.rows, *b.selection, HeldBlocks(b, layer), out);
    }
    out->finished = Finished(b);
  }
  plan_.blocks.resize(used);
  return used == 0 ? absl::OkStatus() : backend_->Attend(plan_);
}

absl::Status StepRunner::AddResidual() {
  missed_.assign(rows_.size() * geometry_.query_heads, -std::numeric_limits<float>::infinity());
  for (const Block& b : blocks_) {
    if (b.missed == nullptr || !b.part->status.ok()) continue;
    std::copy(b.missed->begin(), b.missed->end(), missed_.begin() + size_t{b.first_row} * geometry_.query_heads);
  }
  return backend_->AddResidual(missed_.data());
}

void StepRunner::CountKeys() {
  const uint64_t heads = geometry_.kv_heads;
  for (Block& b : blocks_) {
    const bool decode = b.part->sequence->decoding();
    uint64_t attended = b.selection == nullptr ? 0 : SelectedKeys(b.rows, *b.selection);
    uint64_t dense = 0;
    for (uint32_t i = 0; i < b.rows; ++i) {
      attended += MandatoryKeys(*b.shape, b.first_position + i) * heads;
      dense += (b.first_position + i + 1) * heads;
    }
    b.part->attended_keys += attended;
    b.part->dense_keys += dense;
    counts_.attended_keys[decode] += attended;
    counts_.dense_keys[decode] += dense;
    if (b.selection != nullptr) b.budget->Spend(*b.selection);
  }
}

void StepRunner::Report() {
  const DeviceTierUse use = backend_->device_tier_use();
  metrics_->CountDevice(use.hit_bytes - reported_.hit_bytes, use.fetched_bytes - reported_.fetched_bytes);
  reported_ = use;
  const RouteMirrorUse selected = backend_->route_mirror_use();
  metrics_->CountSelections(selected.on_device - reported_selections_.on_device,
                            selected.by_router - reported_selections_.by_router);
  reported_selections_ = selected;
  metrics_->CountBlocks(EngineMetrics::Tier::kHeld, counts_.held);
  metrics_->CountBlocks(EngineMetrics::Tier::kRam, counts_.ram);
  metrics_->CountBlocks(EngineMetrics::Tier::kDisk, counts_.disk, counts_.spared_bytes);
  for (const bool decode : {false, true}) {
    metrics_->CountKeys(decode, counts_.attended_keys[decode], counts_.dense_keys[decode]);
  }
  metrics_->CountKeyCache(counts_.keys, counts_.cached_keys * key_bytes(), counts_.copied_keys * key_bytes());
  metrics_->CountEarly(counts_.early_keys, counts_.early_used_keys, counts_.early_blocks, counts_.early_used_blocks);
}

void StepRunner::AnswerProbes(uint32_t layer) {
  for (const Block& b : blocks_) {
    if (!b.part->status.ok() || !Probed(b, layer)) continue;
    const Sequence& s = *b.part->sequence;
    AttentionProbe* probe = s.request->probe.get();
    ExplainedQuery q;
    q.geometry = &geometry_;
    q.method = probe->method;
    q.layer = layer;
    q.position = b.first_position;
    q.query = backend_->queries() + size_t{b.first_row} * geometry_.query_heads * geometry_.head_dim;
    q.first_key = b.shape->sink_tokens;
    q.routed = b.routed;
    q.selection = b.selection;
    bool by_router = false;
    q.route = AskedFor(b, &by_router);
    probe->result = Explain(q, [&](uint32_t chunk) -> const void* { return s.blocks.Find(chunk, layer); });
    probe->result->by_router = by_router;
    probe->result->mean_budget_keys = BudgetKeys(*b.shape, s.request->budget, b.first_position);
  }
}

}  // namespace hga
