// A sequence's index of made-up summaries, for tests.
#ifndef HGA_ROUTER_INDEX_INDEX_FIXTURE_H_
#define HGA_ROUTER_INDEX_INDEX_FIXTURE_H_

#include <memory>
#include <string>

#include "common/kv/route_fixture.h"
#include "gtest/gtest.h"
#include "router/index/sequence_index.h"

namespace hga {

inline std::unique_ptr<SequenceIndex> MakeIndex(const KvGeometry& g, const std::string& method, uint32_t chunks) {
  const SummaryMethod* m = *FindSummaryMethod(method, g, MadeUpEnergies(g));
  auto index = std::make_unique<SequenceIndex>(g, m);
  const auto hashes = MadeUpChunks(chunks);
  for (uint32_t i = 0; i < chunks; ++i) EXPECT_TRUE(index->Append(i, hashes[i], SummaryData(g, *m, i)).ok());
  return index;
}

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_INDEX_FIXTURE_H_
