#include <omp.h>

#include <utility>

#include "common/base/check.h"
#include "common/kv/ids.h"
#include "router/index/sequence_index.h"
#include "tests/quality/chooser.h"

namespace hga {
namespace {

// One index per layer: a layer's summaries are there before the next layer of the same step is computed.
class IndexChooser : public Chooser {
 public:
  IndexChooser(const KvGeometry& g, std::vector<const SummaryMethod*> methods, const SelectOptions& options)
      : one_layer_(g), methods_(std::move(methods)), options_(options), scratch_(omp_get_max_threads()) {
    one_layer_.layers = 1;
    for (const SummaryMethod* method : methods_) layers_.push_back(std::make_unique<SequenceIndex>(one_layer_, method));
    record_.resize(methods_[0]->layer_bytes(one_layer_));
  }

  void Seal(uint32_t layer, uint32_t chunk, const void* block) override {
    SummarizeBlock(one_layer_, *methods_[layer], 0, block, reinterpret_cast<uint8_t*>(record_.data()));
    HGA_CHECK(layers_[layer]->Append(chunk, ChunkHash(), record_).ok());
  }

  uint32_t unit_tokens() const override { return methods_[0]->unit_tokens(one_layer_); }

  void Choose(const StepRows& rows, const std::vector<RoutedRows>& blocks, const BlockOfChunk&,
              std::vector<std::vector<HeadSelection>>* out, std::vector<std::vector<float>>* missed) override {
    const SequenceIndex& index = *layers_[rows.layer];
    out->resize(blocks.size());
    missed->resize(blocks.size());
    if (scratch_.size() < static_cast<size_t>(omp_get_max_threads())) scratch_.resize(omp_get_max_threads());
#pragma omp parallel for schedule(dynamic)
    for (size_t b = 0; b < blocks.size(); ++b) {
      HGA_CHECK(blocks[b].route.route_upto <= index.chunks());
      (*out)[b].resize(one_layer_.kv_heads);
      const RouteBlock& route = blocks[b].route;
      (*missed)[b].resize(route.residual ? size_t{route.tokens} * one_layer_.query_heads : 0);
      Select(index, 0, route, options_, &scratch_[omp_get_thread_num()], (*out)[b].data(), (*missed)[b].data());
    }
  }

 private:
  KvGeometry one_layer_;
  const std::vector<const SummaryMethod*> methods_;  // [layers]
  const SelectOptions options_;
  std::vector<std::unique_ptr<SequenceIndex>> layers_;
  std::vector<char> record_;
  std::vector<SelectScratch> scratch_;  // one per thread
};

}  // namespace

const char* PathName(Path path) { return path == Path::kDecode ? "decode" : "prefill"; }

std::unique_ptr<Chooser> NewIndexChooser(const KvGeometry& g, std::vector<const SummaryMethod*> methods,
                                         const SelectOptions& options) {
  return std::make_unique<IndexChooser>(g, std::move(methods), options);
}

}  // namespace hga
