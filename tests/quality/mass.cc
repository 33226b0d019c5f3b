#include "tests/quality/mass.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/numeric/bits.h"
#include "absl/strings/strip.h"
#include "common/base/status.h"
#include "common/kv/kv_rows.h"
#include "tests/quality/exact_mass.h"
#include "tests/quality/sequence_run.h"

namespace hga {
namespace {

// Place of the sampled queries in their chunk: some keys of their own chunk, not many.
constexpr uint32_t kSampledInChunk = 15;

class NewestChooser : public Chooser {
 public:
  explicit NewestChooser(const KvGeometry& g) : g_(g) {}
  uint32_t unit_tokens() const override { return 1; }
  void Choose(const StepRows&, const std::vector<RoutedRows>& blocks, const BlockOfChunk&,
              std::vector<std::vector<HeadSelection>>* out, std::vector<std::vector<float>>* missed) override {
    out->clear();
    missed->assign(blocks.size(), {});
    for (const RoutedRows& block : blocks) {
      const RouteBlock& route = block.route;
      const uint32_t end = route.route_upto * g_.chunk_tokens;
      const uint32_t begin = std::max(route.first_key, end - std::min(end, route.budget_keys[0]));
      HeadSelection keys;
      for (uint32_t chunk = begin / g_.chunk_tokens; chunk < route.route_upto; ++chunk) {
        const uint64_t mask = RoutableMask(g_, chunk, std::max(begin, chunk * g_.chunk_tokens));
        if (mask != 0) keys.push_back({chunk, 0, mask});
      }
      out->emplace_back(g_.kv_heads, keys);
    }
  }

 private:
  const KvGeometry g_;
};

// Attends densely, and looks at what others would have chosen.
struct Measured {
  std::unique_ptr<Chooser> chooser;
  bool residual = false;
};

class MassProbe : public Selector {
 public:
  MassProbe(const KvGeometry& g, const MassOptions& options, std::vector<Measured> methods,
            std::vector<MassResult>* results)
      : g_(g), options_(options), dense_(NewDenseSelector(g)), methods_(std::move(methods)),
        mass_(g.kv_heads, ExactMass(g)), results_(*results) {}

  void Seal(uint32_t layer, uint32_t chunk, const void* block) override {
    for (const Measured& method : methods_) method.chooser->Seal(layer, chunk, block);
  }

  void PlanAlways(const StepRows& rows, const BlockOfChunk& block_of, AttendPlan* plan) override {
    dense_->PlanAlways(rows, block_of, plan);
    for (uint32_t r = 0; r < rows.rows; ++r) {
      const uint32_t position = rows.first_position + r;
      if (position < options_.first || position % options_.stride != kSampledInChunk) continue;
      StepRows row = rows;
      row.path = Path::kDecode;
      row.rows = 1;
      row.first_position = position;
      row.queries = rows.queries + size_t{r} * g_.query_heads * g_.head_dim;
      Measure(row, block_of);
      samples_ += rows.layer == 0;
    }
  }

  uint32_t samples() const { return samples_; }

 private:
  void Measure(const StepRows& row, const BlockOfChunk& block_of) {
    const uint32_t per_head = g_.queries_per_kv_head();
    std::vector<const float*> mass;
    dense_out_.assign(size_t{g_.query_heads} * g_.head_dim, 0);
    std::vector<uint32_t> all(row.first_position + 1);
    for (uint32_t key = 0; key < all.size(); ++key) all[key] = key;
    for (uint32_t head = 0; head < g_.kv_heads; ++head) {
      mass_[head].Load(row, head, block_of);
      mass.push_back(mass_[head].Softmax(0));
      for (uint32_t q = 0; q < per_head; ++q) {
        Output(mass[head] + q * all.size(), all, head, block_of, &dense_out_[(head * per_head + q) * g_.head_dim]);
      }
    }
    for (size_t p = 0; p < options_.percents.size(); ++p) {
      std::vector<std::vector<uint32_t>> firsts;
      for (size_t m = 0; m < methods_.size(); ++m) {
        MassResult& result = results_[m * options_.percents.size() + p];
        const auto keys = Keys(row, methods_[m].chooser.get(), options_.percents[p], block_of);
        if (m == 0) firsts = keys;
        for (uint32_t head = 0; head < g_.kv_heads; ++head) {
          result.keys += static_cast<double>(keys[head].size()) / (g_.kv_heads * g_.layers);
          result.recall += ShareFound(firsts[head], keys[head]) / (g_.kv_heads * g_.layers);
          for (uint32_t q = 0; q < per_head; ++q) {
            Compare(mass[head] + q * all.size(), keys[head], head, head * per_head + q, row.layer, block_of,
                    methods_[m].residual, all.size(), &result);
          }
        }
      }
    }
  }

  // Both ascending.
  static double ShareFound(const std::vector<uint32_t>& wanted, const std::vector<uint32_t>& found) {
    std::vector<uint32_t> both;
    std::set_intersection(wanted.begin(), wanted.end(), found.begin(), found.end(), std::back_inserter(both));
    return wanted.empty() ? 1 : static_cast<double>(both.size()) / wanted.size();
  }

  // What the query attends, per KV head, ascending.
  std::vector<std::vector<uint32_t>> Keys(const StepRows& row, Chooser* chooser, double percent,
                                          const BlockOfChunk& block_of) {
    const uint32_t position = row.first_position;
    const auto total = static_cast<uint32_t>(std::lround(percent / 100 * (position + 1)));
    KeyBudget budget = options_.shape;
    budget.total = total;
    AttendShapes shapes = ShapesOf(g_, budget);
    if (2 * MandatoryKeys(shapes.decode, position) > total) shapes.decode.window_chunks = 0;
    const uint32_t chunk = position / g_.chunk_tokens;
    const uint32_t window = (chunk - std::min(chunk, shapes.decode.window_chunks)) * g_.chunk_tokens;
    std::vector<uint32_t> always;
    for (uint32_t key = 0; key <= position; ++key) {
      if (key < budget.sink_tokens || key >= window) always.push_back(key);
    }
    std::vector<std::vector<uint32_t>> keys(g_.kv_heads, always);
    const auto budgets = RoutedBudget(shapes, Path::kDecode, total, chooser->unit_tokens(), position, 1);
    RoutedRows routed;
    routed.route.tokens = 1;
    routed.route.first_key = budget.sink_tokens;
    routed.route.route_upto = RoutedChunks(shapes.decode, chunk).end;
    routed.route.budget_keys = budgets.data();
    routed.route.queries = row.queries;
    chooser->Choose(row, {routed}, block_of, &selections_, &missed_);
    for (uint32_t head = 0; head < g_.kv_heads; ++head) {
      for (const SelectedChunk& s : selections_[0][head]) {
        for (uint64_t bits = s.mask; bits != 0; bits &= bits - 1) {
          keys[head].push_back(s.chunk * g_.chunk_tokens + absl::countr_zero(bits));
        }
      }
      std::sort(keys[head].begin(), keys[head].end());
    }
    return keys;
  }

  // Adds sum of mass * v over the keys to out; returns the mass.
  double Output(const float* mass, const std::vector<uint32_t>& keys, uint32_t head, const BlockOfChunk& block_of,
                float* out) const {
    double sum = 0;
    std::vector<bf16> v(g_.head_dim);
    for (const uint32_t key : keys) {
      ReadValue(g_, PlaceInBlock(g_, block_of(key / g_.chunk_tokens), head, key % g_.chunk_tokens), v.data());
      for (uint32_t i = 0; i < g_.head_dim; ++i) out[i] += mass[key] * ToFloat(v[i]);
      sum += mass[key];
    }
    return sum;
  }

  // Adds what the mean key and mean value of each chunk's keys that are not in `keys` stand for; returns its mass. A
  // key that is the mean of some has the geometric mean of their masses. keys: ascending.
  double Residual(const float* mass, const std::vector<uint32_t>& keys, size_t count, uint32_t head,
                  const BlockOfChunk& block_of, float* out) const {
    double sum = 0;
    auto taken = keys.begin();
    std::vector<float> values(g_.head_dim);
    std::vector<bf16> v(g_.head_dim);
    for (uint32_t first = 0; first < count; first += g_.chunk_tokens) {
      uint32_t left = 0;
      double log_mass = 0;
      std::fill(values.begin(), values.end(), 0.0f);
      for (uint32_t key = first; key < std::min<size_t>(count, first + g_.chunk_tokens); ++key) {
        if (taken != keys.end() && *taken == key) {
          ++taken;
          continue;
        }
        ++left;
        log_mass += std::log(std::max(mass[key], 1e-38f));
        ReadValue(g_, PlaceInBlock(g_, block_of(key / g_.chunk_tokens), head, key % g_.chunk_tokens), v.data());
        for (uint32_t i = 0; i < g_.head_dim; ++i) values[i] += ToFloat(v[i]);
      }
      if (left == 0) continue;
      const double each = std::exp(log_mass / left);
      for (uint32_t i = 0; i < g_.head_dim; ++i) out[i] += static_cast<float>(each) * values[i];
      sum += each * left;
    }
    return sum;
  }

  void Compare(const float* mass, const std::vector<uint32_t>& keys, uint32_t head, uint32_t query_head,
               uint32_t layer, const BlockOfChunk& block_of, bool residual, size_t count, MassResult* result) {
    out_.assign(g_.head_dim, 0);
    const double kept = Output(mass, keys, head, block_of, out_.data());
    const double in_all = kept + (residual ? Residual(mass, keys, count, head, block_of, out_.data()) : 0);
    double difference = 0, size = 0;
    for (uint32_t i = 0; i < g_.head_dim; ++i) {
      const double dense = dense_out_[size_t{query_head} * g_.head_dim + i], d = out_[i] / in_all - dense;
      difference += d * d;
      size += dense * dense;
    }
    result->kept[layer][query_head] += kept;
    if (size > 0) result->error[layer][query_head] += std::sqrt(difference / size);
  }

  const KvGeometry g_;
  const MassOptions options_;
  const std::unique_ptr<Selector> dense_;
  const std::vector<Measured> methods_;
  std::vector<ExactMass> mass_;  // [kv_heads]
  std::vector<MassResult>& results_;  // sums
  uint32_t samples_ = 0;
  std::vector<std::vector<HeadSelection>> selections_;
  std::vector<std::vector<float>> missed_;  // of nothing: not asked for
  std::vector<float> dense_out_, out_;
};

}  // namespace

absl::StatusOr<std::vector<MassResult>> MeasureMass(Backend* backend, const KvGeometry& g,
                                                    absl::Span<const uint32_t> tokens, const MassOptions& options,
                                                    const std::function<void(uint32_t tokens)>& progress) {
  std::vector<Measured> methods;
  std::vector<MassResult> results;
  const std::vector<std::vector<double>> zeros(g.layers, std::vector<double>(g.query_heads));
  for (const std::string& name : options.methods) {
    absl::string_view chooser = name;
    Measured method;
    method.residual = absl::ConsumeSuffix(&chooser, "+residual");
    method.chooser = std::make_unique<NewestChooser>(g);
    if (chooser != "window") {
      HGA_ASSIGN_OR_RETURN(method.chooser, CreateChooser(std::string(chooser), g, options.shape.channel_energies));
    }
    methods.push_back(std::move(method));
    for (const double percent : options.percents) results.push_back({name, percent, 0, 0, zeros, zeros});
  }
  auto probe = std::make_unique<MassProbe>(g, options, std::move(methods), &results);
  const MassProbe* const counter = probe.get();
  SequenceRun run(backend, g, std::move(probe));
  std::vector<float> logits;
  while (run.length() < tokens.size()) {
    const auto step = tokens.subspan(run.length(), options.step_tokens);
    HGA_RETURN_IF_ERROR(run.Step(Path::kPrefill, step, static_cast<uint32_t>(step.size()), &logits));
    progress(static_cast<uint32_t>(step.size()));
  }
  if (counter->samples() == 0) return absl::InvalidArgumentError("no query is sampled: the document is too short");
  for (MassResult& result : results) {
    result.keys /= counter->samples();
    result.recall /= counter->samples();
    for (auto* table : {&result.kept, &result.error}) {
      for (auto& layer : *table) {
        for (double& x : layer) x /= counter->samples();
      }
    }
  }
  return results;
}

}  // namespace hga
