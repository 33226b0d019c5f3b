#include "gpu_worker/backend/rounded_kv.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/kv/kv_rows.h"
#include "router/client/route_client.h"

namespace hga {
namespace {

class RoundedKvBackend : public Backend {
 public:
  RoundedKvBackend(std::unique_ptr<Backend> inner, const KvGeometry& geometry, KvDtype dtype)
      : inner_(std::move(inner)), geometry_(geometry), dtype_(dtype) {
    inner_->KvIsRewritten();
  }

  std::string name() const override { return inner_->name(); }
  uint32_t max_rows() const override { return inner_->max_rows(); }
  uint32_t vocab_size() const override { return inner_->vocab_size(); }
  absl::Status Begin(absl::Span<const BatchRow> rows) override { return inner_->Begin(rows); }
  absl::Status PreAttention(uint32_t layer, absl::Span<const KvRow> kv_rows) override {
    HGA_RETURN_IF_ERROR(inner_->PreAttention(layer, kv_rows));
    for (const KvRow& row : kv_rows) {
      for (uint32_t h = 0; h < geometry_.kv_heads; ++h) {
        bf16* const block = static_cast<bf16*>(row.block);
        RoundKvRow(dtype_, block + geometry_.k_row(h, row.token_in_chunk), geometry_.head_dim);
        RoundKvRow(dtype_, block + geometry_.v_row(h, row.token_in_chunk), geometry_.head_dim);
      }
    }
    return absl::OkStatus();
  }
  const bf16* queries() override { return inner_->queries(); }
  absl::Status Attend(const AttendPlan& plan) override { return inner_->Attend(plan); }
  const bf16* GuessQueries(uint32_t layer) override { return inner_->GuessQueries(layer); }
  bool can_prefetch() const override { return inner_->can_prefetch(); }
  absl::Status Prefetch(uint32_t layer, const AttendPlan& plan) override { return inner_->Prefetch(layer, plan); }
  const float* LogSumExp() override { return inner_->LogSumExp(); }
  absl::Status AddResidual(const float* missed) override { return inner_->AddResidual(missed); }
  absl::Status PostAttention(uint32_t layer) override { return inner_->PostAttention(layer); }
  absl::Status Logits(std::vector<float>* logits) override { return inner_->Logits(logits); }
  absl::Status TopLogits(uint32_t count, absl::Span<const TopRow> rows, std::vector<TokenLogit>* top,
                         std::vector<uint64_t>* masses) override {
    return inner_->TopLogits(count, rows, top, masses);
  }
  DeviceTierUse device_tier_use() const override { return inner_->device_tier_use(); }
  std::unique_ptr<RouteClient> MirrorRouter(std::unique_ptr<RouteClient> router, const SummaryMethod* method,
                                            SummarySource source) override {
    return inner_->MirrorRouter(std::move(router), method, std::move(source));
  }
  RouteMirrorUse route_mirror_use() const override { return inner_->route_mirror_use(); }
  absl::Status RegisterKv(const void* memory, size_t bytes) override { return inner_->RegisterKv(memory, bytes); }
  void UnregisterKv(const void* memory) override { inner_->UnregisterKv(memory); }

 private:
  const std::unique_ptr<Backend> inner_;
  const KvGeometry geometry_;
  const KvDtype dtype_;
};

}  // namespace

std::unique_ptr<Backend> RoundKv(std::unique_ptr<Backend> inner, const KvGeometry& geometry, KvDtype dtype) {
  if (dtype == KvDtype::kBf16 || dtype == geometry.dtype) return inner;
  return std::make_unique<RoundedKvBackend>(std::move(inner), geometry, dtype);
}

ModelFingerprint FingerprintWith(const ModelFingerprint& model, KvDtype dtype) {
  if (dtype == KvDtype::kBf16) return model;
  return HashBytes(absl::StrCat(model.ToHex(), ":kv:", KvDtypeName(dtype)));
}

}  // namespace hga
