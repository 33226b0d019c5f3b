#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "router/index/select.h"

namespace hga {
namespace {

double Score(ScoreForm form, const bf16* query, const bf16* unit, uint32_t head_dim) {
  double score = 0;
  for (uint32_t d = 0; d < head_dim; ++d) {
    const double q = ToFloat(query[d]);
    score += q * ToFloat(unit[d]);
    if (form == ScoreForm::kDotPlusAbsDot) score += std::fabs(q) * ToFloat(unit[head_dim + d]);
  }
  return score / std::sqrt(static_cast<double>(head_dim));
}

// Indices of the `wanted` units with the largest mean softmax, ascending.
std::vector<uint32_t> Best(const SequenceIndex& index, const bf16* queries, const std::vector<const bf16*>& units,
                           size_t wanted) {
  const KvGeometry& g = index.geometry();
  std::vector<double> pooled(units.size());
  for (uint32_t h = 0; h < g.queries_per_kv_head(); ++h) {
    std::vector<double> row;
    for (const bf16* unit : units) row.push_back(Score(index.method().score, queries + h * g.head_dim, unit, g.head_dim));
    const double top = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (double& score : row) sum += score = std::exp(score - top);
    for (size_t i = 0; i < row.size(); ++i) pooled[i] += row[i] / sum;
  }
  std::vector<uint32_t> order(units.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return pooled[a] > pooled[b]; });
  order.resize(std::min(wanted, order.size()));
  std::sort(order.begin(), order.end());
  return order;
}

// Groups that one token asks for.
std::vector<uint32_t> SelectToken(const SequenceIndex& index, uint32_t layer, uint32_t kv_head, const RouteBlock& block,
                                  uint32_t token, uint32_t overprovision) {
  const KvGeometry& g = index.geometry();
  const uint32_t per_chunk = g.groups_per_chunk();
  const size_t budget = block.budget_groups[token];
  std::vector<uint32_t> selected;
  if (budget == 0 || block.first_chunk == block.route_upto) return selected;
  if (budget >= size_t{block.route_upto - block.first_chunk} * per_chunk) {
    selected.resize(size_t{block.route_upto - block.first_chunk} * per_chunk);
    std::iota(selected.begin(), selected.end(), block.first_chunk * per_chunk);
    return selected;
  }
  const bf16* queries =
      block.queries + (size_t{token} * g.query_heads + size_t{kv_head} * g.queries_per_kv_head()) * g.head_dim;
  std::vector<const bf16*> chunk_units;
  for (uint32_t c = block.first_chunk; c < block.route_upto; ++c) {
    chunk_units.push_back(index.ChunkUnit(layer, kv_head, c));
  }
  const size_t wanted = (budget * overprovision + per_chunk - 1) / per_chunk;
  std::vector<const bf16*> group_units;
  std::vector<uint32_t> groups;
  for (uint32_t c : Best(index, queries, chunk_units, wanted)) {
    for (uint32_t i = 0; i < per_chunk; ++i) {
      groups.push_back((block.first_chunk + c) * per_chunk + i);
      group_units.push_back(index.GroupUnits(layer, kv_head, block.first_chunk + c) +
                            i * SummaryUnitElements(g, index.method()));
    }
  }
  for (uint32_t i : Best(index, queries, group_units, budget)) selected.push_back(groups[i]);
  return selected;
}

}  // namespace

std::vector<HeadSelection> SelectReference(const SequenceIndex& index, uint32_t layer, const RouteBlock& block,
                                           uint32_t overprovision) {
  std::vector<HeadSelection> heads(index.geometry().kv_heads);
  for (uint32_t kv_head = 0; kv_head < heads.size(); ++kv_head) {
    std::map<uint32_t, uint32_t> first_token;
    for (uint32_t t = 0; t < block.tokens; ++t) {
      for (uint32_t group : SelectToken(index, layer, kv_head, block, t, overprovision)) first_token.emplace(group, t);
    }
    for (const auto& [group, token] : first_token) heads[kv_head].push_back({group, token});
  }
  return heads;
}

}  // namespace hga
