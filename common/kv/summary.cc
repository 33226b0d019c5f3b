#include "common/kv/summary.h"

#include <cmath>
#include <mutex>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "common/base/status.h"
#include "common/kv/kv_rows.h"
#include "common/kv/sketch.h"

namespace hga {
namespace {

struct FormName {
  const char* name;
  SummaryForm form;
};
constexpr FormName kForms[] = {{"mean", SummaryForm::kMean},
                               {"cuboid", SummaryForm::kCuboid},
                               {"box", SummaryForm::kBox},
                               {"gauss", SummaryForm::kGauss},
                               {"kmeans", SummaryForm::kKmeans}};
constexpr uint32_t kUnitTokens[] = {0, 8, 16, 32};
// Clusters of kmeans.
constexpr uint32_t kUnitClusters = 2, kChunkClusters = 4;
// Of models that a process has seen, each some hundred KB.
constexpr size_t kMostPlans = 256;

std::vector<SummaryMethod> AllMethods() {
  std::vector<SummaryMethod> methods = {{"sketch", SummaryForm::kSketch, 1, true},
                                        {"dealt", SummaryForm::kSketch, 1, true, true}};
  for (const FormName& form : kForms) {
    for (uint32_t tokens : kUnitTokens) {
      const std::string name = tokens == 0 ? form.name : absl::StrCat(form.name, tokens);
      methods.push_back({name, form.form, tokens, false});
      methods.push_back({name + "-int8", form.form, tokens, true});
    }
  }
  return methods;
}

const std::vector<SummaryMethod>& Methods() {
  static const auto* const methods = new std::vector<SummaryMethod>(AllMethods());
  return *methods;
}

// The chunk's unit, then those inside it. keys: [chunk_tokens][head_dim].
void WriteUnits(const KvGeometry& g, const SummaryMethod& m, const float* keys, uint8_t* out) {
  const UnitLayout coarse = m.coarse_layout(g), fine = m.fine_layout(g);
  const uint32_t tokens = m.unit_tokens(g);
  uint8_t* units = out + coarse.bytes();
  for (uint32_t u = 0; u < g.chunk_tokens / tokens; ++u) {
    MakeUnit(m.form, fine, keys + size_t{u} * tokens * g.head_dim, tokens, units + u * fine.bytes());
  }
  if (m.form == SummaryForm::kBox) {
    MakeBoxAround(coarse, units, g.chunk_tokens / tokens, out);
  } else {
    MakeUnit(m.form, coarse, keys, g.chunk_tokens, out);
  }
}

}  // namespace

uint32_t SummaryMethod::unit_tokens(const KvGeometry& g) const {
  return std::gcd(wanted_unit_tokens == 0 ? g.group_tokens : wanted_unit_tokens, g.chunk_tokens);
}

UnitLayout SummaryMethod::coarse_layout(const KvGeometry& g) const {
  return LayoutOf(form, int8, form == SummaryForm::kKmeans ? kChunkClusters : 1, g.head_dim);
}

UnitLayout SummaryMethod::fine_layout(const KvGeometry& g) const {
  return LayoutOf(form, int8, form == SummaryForm::kKmeans ? kUnitClusters : 1, g.head_dim);
}

size_t SummaryMethod::fine_bytes(const KvGeometry& g) const {
  if (form == SummaryForm::kSketch) return SketchTokenBytes(g.head_dim);
  return g.chunk_tokens / unit_tokens(g) * fine_layout(g).bytes();
}

absl::StatusOr<const SummaryMethod*> FindSummaryMethod(absl::string_view name) {
  for (const SummaryMethod& method : Methods()) {
    if (name == method.name) return &method;
  }
  return absl::NotFoundError(
      absl::StrCat("no summary method '", name, "'; there are: ", absl::StrJoin(SummaryMethodNames(), ", ")));
}

std::vector<std::string> SummaryMethodNames() {
  std::vector<std::string> names;
  for (const SummaryMethod& method : Methods()) names.push_back(method.name);
  return names;
}

absl::StatusOr<const SummaryMethod*> FindSummaryMethod(absl::string_view name, const KvGeometry& g,
                                                       absl::string_view energies) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, absl::MaxSplits(':', 1));
  HGA_ASSIGN_OR_RETURN(const SummaryMethod* base, FindSummaryMethod(parts[0]));
  if (!base->dealt) return base;
  HGA_ASSIGN_OR_RETURN(SketchPlan plan, SketchPlan::Create(g, energies));
  if (parts.size() == 2 && parts[1] != plan.id()) {
    return absl::InvalidArgumentError(absl::StrCat("'", name, "': its channel energies make ", plan.id()));
  }
  static std::mutex mu;
  static auto* const methods = new absl::flat_hash_map<std::string, std::unique_ptr<const SummaryMethod>>();
  const std::lock_guard<std::mutex> lock(mu);
  const std::string key = absl::StrCat(plan.id(), "/", g.layers, "/", g.kv_heads, "/", g.head_dim);
  if (const auto known = methods->find(key); known != methods->end()) return known->second.get();
  if (methods->size() >= kMostPlans) {
    return absl::ResourceExhaustedError(absl::StrCat("more than ", kMostPlans, " plans of sketches; restart"));
  }
  SummaryMethod method = *base;
  method.name = absl::StrCat(base->name, ":", plan.id());
  method.plan = std::make_shared<const SketchPlan>(std::move(plan));
  return methods->emplace(key, std::make_unique<const SummaryMethod>(std::move(method))).first->second.get();
}

void SummarizeBlock(const KvGeometry& g, const SummaryMethod& m, uint32_t layer, const void* block, uint8_t* out) {
  std::vector<const bf16*> rows(g.chunk_tokens);
  std::vector<bf16> unpacked(g.dtype == KvDtype::kBf16 ? 0 : size_t{g.chunk_tokens} * g.head_dim);
  std::vector<float> keys(size_t{g.chunk_tokens} * g.head_dim);
  for (uint32_t head = 0; head < g.kv_heads; ++head, out += m.record_bytes(g)) {
    for (uint32_t t = 0; t < g.chunk_tokens; ++t) {
      const KvPlace place = PlaceInBlock(g, block, head, t);
      rows[t] = unpacked.empty() ? static_cast<const bf16*>(place.k) : &unpacked[size_t{t} * g.head_dim];
      if (!unpacked.empty()) ReadKey(g, place, &unpacked[size_t{t} * g.head_dim]);
    }
    if (m.form == SummaryForm::kSketch) {
      MakeSketch(rows.data(), g.chunk_tokens, g.head_dim, m.deal(layer, head), out, out + m.coarse_bytes(g));
      continue;
    }
    for (size_t i = 0; i < keys.size(); ++i) {
      const float key = ToFloat(rows[i / g.head_dim][i % g.head_dim]);
      keys[i] = std::isfinite(key) ? key : 0.0f;
    }
    WriteUnits(g, m, keys.data(), out);
  }
}

std::vector<int16_t> ChunkExtents(const KvGeometry& g, const SummaryMethod& m, const uint8_t* data) {
  std::vector<int16_t> extents(g.layers * g.kv_heads * m.extents_bytes() / sizeof(int16_t));
  for (uint32_t i = 0; m.plan != nullptr && i < g.layers * g.kv_heads; ++i, data += m.record_bytes(g)) {
    SketchExtents(*m.deal(i / g.kv_heads, i % g.kv_heads), data, data + m.coarse_bytes(g), &extents[i * kExtents]);
  }
  return extents;
}

std::string WithExtents(const KvGeometry& g, const SummaryMethod& m, const std::string& data) {
  if (data.size() != m.chunk_bytes(g)) return "";
  const std::vector<int16_t> extents = ChunkExtents(g, m, reinterpret_cast<const uint8_t*>(data.data()));
  return data + std::string(reinterpret_cast<const char*>(extents.data()), extents.size() * sizeof(int16_t));
}

void ScoreRecord(const KvGeometry& g, const SummaryMethod& m, uint32_t layer, uint32_t kv_head, const float* query,
                 const uint8_t* record, double* chunk, double* units) {
  const UnitLayout coarse = m.coarse_layout(g), fine = m.fine_layout(g);
  const uint8_t* parts = record + coarse.bytes();
  *chunk = ScoreUnit(m.form, coarse, query, record);
  const uint32_t count = g.chunk_tokens / m.unit_tokens(g);
  if (m.form != SummaryForm::kSketch) {
    for (uint32_t u = 0; u < count; ++u) units[u] = ScoreUnit(m.form, fine, query, parts + u * fine.bytes());
    return;
  }
  std::vector<float> weights(query, query + g.head_dim);
  const double spread = WeighForSketch(m.deal(layer, kv_head), g.head_dim, weights.data());
  for (uint32_t u = 0; u < count; ++u) {
    units[u] = *chunk + SketchScore(weights.data(), spread, record, parts, u, g.head_dim);
  }
}

}  // namespace hga
