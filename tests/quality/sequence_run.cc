#include "tests/quality/sequence_run.h"

#include <utility>

#include "common/base/status.h"

namespace hga {

SequenceRun::SequenceRun(Backend* backend, const KvGeometry& geometry, std::unique_ptr<Selector> selector)
    : backend_(backend), g_(geometry), selector_(std::move(selector)) {}

absl::Status SequenceRun::Step(Path path, absl::Span<const uint32_t> tokens, uint32_t first_wanted,
                               std::vector<float>* logits) {
  std::vector<BatchRow> rows;
  for (uint32_t i = 0; i < tokens.size(); ++i) rows.push_back({tokens[i], length_ + i, i >= first_wanted});
  while (blocks_.size() < (size_t{length_} + tokens.size() + g_.chunk_tokens - 1) / g_.chunk_tokens * g_.layers) {
    blocks_.push_back(std::make_unique<uint8_t[]>(g_.block_bytes()));
  }
  keys_.assign(rows.size(), 0);
  HGA_RETURN_IF_ERROR(backend_->Begin(rows));
  for (uint32_t layer = 0; layer < g_.layers; ++layer) HGA_RETURN_IF_ERROR(RunLayer(path, layer, rows));
  for (double& keys : keys_) keys /= size_t{g_.layers} * g_.kv_heads;
  length_ += static_cast<uint32_t>(tokens.size());
  logits->clear();
  return first_wanted < tokens.size() ? backend_->Logits(logits) : absl::OkStatus();
}

absl::Status SequenceRun::RunLayer(Path path, uint32_t layer, absl::Span<const BatchRow> rows) {
  kv_rows_.clear();
  for (const BatchRow& row : rows) {
    kv_rows_.push_back({BlockOf(row.position / g_.chunk_tokens, layer), row.position % g_.chunk_tokens});
  }
  HGA_RETURN_IF_ERROR(backend_->PreAttention(layer, kv_rows_));
  const uint32_t end = length_ + static_cast<uint32_t>(rows.size());
  for (uint32_t chunk = length_ / g_.chunk_tokens; chunk < end / g_.chunk_tokens; ++chunk) {
    selector_->Seal(layer, chunk, BlockOf(chunk, layer));
  }
  StepRows step;
  step.path = path;
  step.layer = layer;
  step.rows = static_cast<uint32_t>(rows.size());
  step.first_position = length_;
  step.queries = backend_->queries();
  const auto block_of = [&](uint32_t chunk) { return BlockOf(chunk, layer); };
  selector_->PlanAlways(step, block_of, &plan_);
  CountKeys(plan_, length_, &keys_);
  HGA_RETURN_IF_ERROR(backend_->Attend(plan_));
  selector_->PlanChosen(step, backend_->LogSumExp(), block_of, &plan_, &missed_);
  CountKeys(plan_, length_, &keys_);
  HGA_RETURN_IF_ERROR(backend_->Attend(plan_));
  if (!missed_.empty()) HGA_RETURN_IF_ERROR(backend_->AddResidual(missed_.data()));
  return backend_->PostAttention(layer);
}

}  // namespace hga
