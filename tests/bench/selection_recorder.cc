#include "tests/bench/selection_recorder.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/engine/channel_energies.h"
#include "gpu_worker/model/loaded_model.h"
#include "tests/quality/configuration.h"
#include "tests/quality/sequence_run.h"

namespace hga {
namespace {

constexpr uint32_t kStepTokens = 256;

// Chooses as another one does and writes down what it chose for the tokens of the decode path.
class RecordingChooser : public Chooser {
 public:
  RecordingChooser(std::unique_ptr<Chooser> inner, Recording* recording)
      : inner_(std::move(inner)), recording_(recording) {}

  void Seal(uint32_t layer, uint32_t chunk, const void* block) override { inner_->Seal(layer, chunk, block); }
  uint32_t unit_tokens() const override { return inner_->unit_tokens(); }
  void Choose(const StepRows& rows, const std::vector<RoutedRows>& blocks, const BlockOfChunk& block_of,
              std::vector<std::vector<HeadSelection>>* out, std::vector<std::vector<float>>* missed) override {
    inner_->Choose(rows, blocks, block_of, out, missed);
    if (rows.path != Path::kDecode) return;
    for (size_t b = 0; b < blocks.size(); ++b) {
      for (uint32_t head = 0; head < (*out)[b].size(); ++head) {
        for (const SelectedChunk& chunk : (*out)[b][head]) {
          recording_->selected.push_back(
              {rows.first_position + blocks[b].first_row, rows.layer, head, chunk.chunk, chunk.mask});
        }
      }
    }
  }

 private:
  const std::unique_ptr<Chooser> inner_;
  Recording* const recording_;
};

}  // namespace

absl::StatusOr<Recording> RecordSelections(const std::string& model_path, const std::string& text, uint32_t prompt,
                                           uint32_t tokens, const std::string& configuration) {
  HGA_ASSIGN_OR_RETURN(const auto model, LoadModel(model_path));
  Recording recording;
  const KvGeometry g = recording.geometry = model->weights.config.Geometry();
  HGA_ASSIGN_OR_RETURN(auto backend, CreateBackend("cpu", model->weights, g, BackendOptions()));
  HGA_ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, model->tokenizer->Encode(text, false));
  if (ids.size() < size_t{prompt} + tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", ids.size(), " tokens"));
  }
  KeyBudget shape;
  HGA_ASSIGN_OR_RETURN(shape.channel_energies, MeasureChannelEnergies(*model, g, backend.get()));
  HGA_ASSIGN_OR_RETURN(const Configuration c, ParseConfiguration(configuration, shape));
  HGA_ASSIGN_OR_RETURN(auto chooser, CreateChooser(c.method, g, shape.channel_energies));
  SequenceRun run(backend.get(), g,
                  NewRoutedSelector(g, c.budget, std::make_unique<RecordingChooser>(std::move(chooser), &recording)));
  std::vector<float> logits;
  for (uint32_t at = 0; at < prompt; at += kStepTokens) {
    const uint32_t rows = std::min(kStepTokens, prompt - at);
    HGA_RETURN_IF_ERROR(run.Step(Path::kPrefill, absl::MakeConstSpan(ids).subspan(at, rows), rows, &logits));
  }
  HGA_RETURN_IF_ERROR(run.Step(Path::kDecode, absl::MakeConstSpan(ids).subspan(prompt, tokens), tokens, &logits));
  for (Selected& s : recording.selected) s.token -= prompt;
  std::stable_sort(recording.selected.begin(), recording.selected.end(), [](const Selected& a, const Selected& b) {
    return a.token != b.token ? a.token < b.token : a.layer < b.layer;
  });
  recording.chunks = prompt / g.chunk_tokens;
  recording.tokens = tokens;
  return recording;
}

}  // namespace hga
