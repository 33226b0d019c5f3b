// Sequences with made-up summaries, for tests and the benchmark.
#ifndef HGA_COMMON_KV_ROUTE_FIXTURE_H_
#define HGA_COMMON_KV_ROUTE_FIXTURE_H_

#include <random>
#include <string>
#include <vector>

#include "common/kv/ids.h"
#include "common/kv/route_message.h"
#include "common/kv/summary.h"
#include "hwy/targets.h"

namespace hga {

inline KvGeometry SmallGeometry(uint32_t queries_per_kv_head = 2, uint32_t head_dim = 16, uint32_t kv_heads = 2) {
  KvGeometry g;
  g.layers = 2;
  g.kv_heads = kv_heads;
  g.query_heads = queries_per_kv_head * kv_heads;
  g.head_dim = head_dim;
  return g;
}

inline std::vector<bf16> RandomBf16(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<bf16> values(count);
  for (bf16& value : values) value = ToBf16(normal(random));
  return values;
}

// Channel energies (SketchPlan) that differ by three orders of magnitude.
inline std::string MadeUpEnergies(const KvGeometry& g, uint32_t seed = 0) {
  std::mt19937 random(seed);
  std::string energies;
  for (size_t i = 0; i < size_t{g.layers} * g.kv_heads * g.head_dim; ++i) {
    energies.push_back(static_cast<char>(110 + random() % 20));
    energies.push_back(static_cast<char>(118 + random() % 20));
  }
  return energies;
}

// Summary data of made-up chunk number `chunk`.
inline std::string SummaryData(const KvGeometry& g, const SummaryMethod& method, uint32_t chunk) {
  std::string data(method.chunk_bytes(g), '\0');
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    const std::vector<bf16> block = RandomBf16(g.block_elements(), 1000 + chunk * g.layers + layer);
    SummarizeBlock(g, method, layer, block.data(), reinterpret_cast<uint8_t*>(&data[layer * method.layer_bytes(g)]));
  }
  return data;
}

inline std::vector<ChunkHash> MadeUpChunks(uint32_t count) {
  std::vector<ChunkHash> chunks;
  for (uint32_t i = 0; i < count; ++i) chunks.push_back(HashBytes("chunk " + std::to_string(i)));
  return chunks;
}

// Runs `test` once for each instruction set that this CPU has and that kernels are compiled for.
template <typename Test>
void WithEachInstructionSet(Test test) {
#ifdef HWY_COMPILE_ONLY_STATIC
  test();
#else
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    test();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
#endif
}

// A block of queries that owns its arrays.
struct MadeUpQueries {
  MadeUpQueries(const KvGeometry& g, uint32_t tokens, uint32_t first_key, uint32_t route_upto, uint32_t budget,
             uint32_t seed)
      : budgets(tokens, budget), queries(RandomBf16(size_t{tokens} * g.query_heads * g.head_dim, seed)) {
    block.sequence_id = 1;
    block.tokens = tokens;
    block.first_key = first_key;
    block.route_upto = route_upto;
    block.budget_keys = budgets.data();
    block.queries = queries.data();
  }
  MadeUpQueries(const MadeUpQueries&) = delete;

  // Shared by the KV heads, beside made-up attention over what is attended anyway.
  void Share(const KvGeometry& g, float least_share, float top_p, uint32_t seed, float mean = 3) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(mean, 2);
    attended.resize(size_t{block.tokens} * g.query_heads);
    for (float& x : attended) x = normal(random);
    block.shared = true;
    block.attended = attended.data();
    block.least_share = least_share;
    block.top_p = top_p;
  }

  std::vector<uint32_t> budgets;
  std::vector<float> attended;
  std::vector<bf16> queries;
  RouteBlock block;
};

}  // namespace hga

#endif  // HGA_COMMON_KV_ROUTE_FIXTURE_H_
