#include "gpu_worker/engine/channel_energies.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/kv/kv_rows.h"
#include "gpu_worker/engine/attend_plan.h"

namespace hga {
namespace {

constexpr uint32_t kTokens = 256;
// Their keys are like no others, and they are attended always.
constexpr uint32_t kSinks = 4;

// Some of what documents are made of: a story, a manual, figures, code.
constexpr char kText[] =
    "The harbour master had kept the log for thirty years, and in all that time nobody had asked to read it. On the "
    "morning of the storm a young engineer came up the stairs with wet boots and a letter from the council. \"I need "
    "the tides of 1987,\" she said, \"and the names of the boats that did not come back.\" He looked at her for a "
    "while, then took down the third volume and opened it where a ribbon lay between the pages.\n\n"
    "2.4 Replacing the filter\nSwitch the pump off and close both valves. Turn the housing to the left until it comes "
    "free; some water will run out. Fit the new cartridge (part 4471-B) with its seal upwards. Do not use tools to "
    "tighten it. Open the valves slowly and check for leaks at 3.5 bar.\n\n"
    "Table 7. Sales by region, thousands: North 412, South 388, East 97, West 1,204; total 2,101, which is 6.3% more "
    "than in the year before.\n\n"
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n    return total / "
    "len(values) if values else None\n\n"
    "In law, a contract is void if its object is impossible from the beginning; it is merely voidable if one of the "
    "parties was misled. The court held in the second case that silence is not consent.\n";

// Reads the text chunk by chunk and sums up squares.
class EnergyMeter {
 public:
  EnergyMeter(const ModelConfig& config, const KvGeometry& geometry, Backend* backend)
      : config_(config), g_(geometry), backend_(backend), shape_{g_, 0, UINT32_MAX},
        queries_(size_t{g_.layers} * g_.kv_heads * g_.head_dim), keys_(queries_.size()) {}

  absl::Status Read(const std::vector<uint32_t>& tokens) {
    for (uint32_t first = 0; first + g_.chunk_tokens <= tokens.size(); first += g_.chunk_tokens) {
      HGA_RETURN_IF_ERROR(ReadChunk(tokens, first));
    }
    return absl::OkStatus();
  }

  std::string Energies() const {
    std::string bytes;
    for (size_t head = 0; head < queries_.size(); head += g_.head_dim) {
      for (uint32_t c = 0; c < g_.head_dim; ++c) {
        const uint32_t other = TurnsWith(c);
        const double query = (queries_[head + c] + queries_[head + other]) / 2 / read_queries_;
        const double key = (keys_[head + c] + keys_[head + other]) / 2 / read_keys_;
        bytes.push_back(static_cast<char>(EnergyLog(query)));
        bytes.push_back(static_cast<char>(EnergyLog(key)));
      }
    }
    return bytes;
  }

 private:
  absl::Status ReadChunk(const std::vector<uint32_t>& tokens, uint32_t first) {
    std::vector<BatchRow> rows;
    for (uint32_t i = 0; i < g_.chunk_tokens; ++i) rows.push_back({tokens[first + i], first + i, false});
    rows.back().want_logits = true;  // that they are there means that a device has done all before
    for (uint32_t layer = 0; layer < g_.layers; ++layer) blocks_.emplace_back(g_.block_bytes());
    HGA_RETURN_IF_ERROR(backend_->Begin(rows));
    const uint32_t chunk = first / g_.chunk_tokens;
    for (uint32_t layer = 0; layer < g_.layers; ++layer) {
      const auto block_of = [&](uint32_t c) { return blocks_[size_t{c} * g_.layers + layer].data(); };
      std::vector<KvRow> kv_rows;
      for (uint32_t i = 0; i < g_.chunk_tokens; ++i) kv_rows.push_back({block_of(chunk), i});
      HGA_RETURN_IF_ERROR(backend_->PreAttention(layer, kv_rows));
      AttendPlan plan;
      plan.blocks.emplace_back();
      PlanMandatory(shape_, 0, g_.chunk_tokens, first, block_of, &plan.blocks[0]);
      HGA_RETURN_IF_ERROR(backend_->Attend(plan));
      AddQueries(layer, first == 0 ? kSinks : 0, backend_->queries());
      HGA_RETURN_IF_ERROR(backend_->PostAttention(layer));
      AddKeys(layer, first == 0 ? kSinks : 0, block_of(chunk));
    }
    read_queries_ += (g_.chunk_tokens - (first == 0 ? kSinks : 0)) * g_.queries_per_kv_head();
    read_keys_ += g_.chunk_tokens - (first == 0 ? kSinks : 0);
    std::vector<float> logits;
    return backend_->Logits(&logits);
  }

  void AddQueries(uint32_t layer, uint32_t skip, const bf16* queries) {
    for (uint32_t row = skip; row < g_.chunk_tokens; ++row) {
      for (uint32_t h = 0; h < g_.query_heads; ++h) {
        const bf16* query = queries + (size_t{row} * g_.query_heads + h) * g_.head_dim;
        double* sums = &queries_[SumsOf(layer, h / g_.queries_per_kv_head())];
        for (uint32_t c = 0; c < g_.head_dim; ++c) sums[c] += double{ToFloat(query[c])} * ToFloat(query[c]);
      }
    }
  }

  void AddKeys(uint32_t layer, uint32_t skip, const void* block) {
    std::vector<bf16> keys(size_t{g_.chunk_tokens} * g_.head_dim);
    for (uint32_t h = 0; h < g_.kv_heads; ++h) {
      for (uint32_t t = 0; t < g_.chunk_tokens; ++t) {
        ReadKey(g_, PlaceInBlock(g_, block, h, t), &keys[size_t{t} * g_.head_dim]);
      }
      double* sums = &keys_[SumsOf(layer, h)];
      for (uint32_t c = 0; c < g_.head_dim; ++c) {
        double mean = 0;
        for (uint32_t t = 0; t < g_.chunk_tokens; ++t) mean += ToFloat(keys[t * g_.head_dim + c]) / g_.chunk_tokens;
        for (uint32_t t = skip; t < g_.chunk_tokens; ++t) {
          const double difference = ToFloat(keys[t * g_.head_dim + c]) - mean;
          sums[c] += difference * difference;
        }
      }
    }
  }

  size_t SumsOf(uint32_t layer, uint32_t kv_head) const {
    return (size_t{layer} * g_.kv_heads + kv_head) * g_.head_dim;
  }

  // The channel that RoPE turns together with this one; itself, if it turns none.
  uint32_t TurnsWith(uint32_t channel) const {
    if (channel >= config_.rope_dims) return channel;
    if (config_.rope_style == RopeStyle::kAdjacentPairs) return channel ^ 1;
    const uint32_t half = config_.rope_dims / 2;
    return channel < half ? channel + half : channel - half;
  }

  const ModelConfig& config_;
  const KvGeometry g_;
  Backend* const backend_;
  const AttendShape shape_;
  std::vector<std::vector<uint8_t>> blocks_;  // [chunks][layers]
  std::vector<double> queries_, keys_;     // [layers][kv_heads][head_dim] sums of squares
  double read_queries_ = 0, read_keys_ = 0;
};

}  // namespace

absl::StatusOr<std::string> MeasureChannelEnergies(const LoadedModel& model, const KvGeometry& geometry,
                                                   Backend* backend) {
  const auto begin = std::chrono::steady_clock::now();
  HGA_ASSIGN_OR_RETURN(const std::vector<uint32_t> text, model.tokenizer->Encode(kText, false));
  if (text.empty()) return absl::InternalError("the tokenizer makes nothing of a text");
  std::vector<uint32_t> tokens(kTokens);
  for (uint32_t i = 0; i < kTokens; ++i) tokens[i] = text[i % text.size()];
  LogInfo("measuring channel energies", {{"tokens", kTokens}});
  EnergyMeter meter(model.weights.config, geometry, backend);
  const absl::Status read = meter.Read(tokens);
  if (!read.ok()) return absl::Status(read.code(), absl::StrCat("measuring channel energies: ", read.message()));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  LogInfo("channel energies measured", {{"seconds", took.count()}});
  return meter.Energies();
}

absl::StatusOr<const SummaryMethod*> PrepareSummaryMethod(const std::string& name, const LoadedModel& model,
                                                          const KvGeometry& geometry, Backend* backend) {
  HGA_ASSIGN_OR_RETURN(const SummaryMethod* method, FindSummaryMethod(name));
  if (!method->dealt) return method;
  HGA_ASSIGN_OR_RETURN(const std::string energies, MeasureChannelEnergies(model, geometry, backend));
  return FindSummaryMethod(name, geometry, energies);
}

}  // namespace hga
