#include "gpu_worker/backend/cuda/shared_history.h"

#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kChunks = 8;

class SharedHistoryTest : public testing::Test {
 protected:
  SharedHistoryTest() : names_(kChunks), memory_(64) {
    g_.kv_heads = 2;
    g_.chunk_tokens = 64;
    g_.group_tokens = 16;
  }
  // Attends all groups from the first on, and `own` of them that nobody else does.
  QueryBlock Block(uint32_t rows, uint32_t groups, uint32_t own = 1) const {
    QueryBlock block;
    block.rows = rows;
    block.finished = names_;
    block.runs.resize(g_.kv_heads);
    for (uint32_t i = 0; i < groups + own; ++i) {
      const bf16* k = memory_.data() + (i < groups ? 0 : rows);
      for (auto& runs : block.runs) runs.push_back({k, k + 1, i * g_.group_tokens, 16, 0});
    }
    return block;
  }
  SharedHistory Find(const std::vector<QueryBlock>& blocks) const { return FindSharedHistory(g_, blocks); }

  KvGeometry g_;
  std::vector<ChunkHash> names_;
  std::vector<bf16> memory_;
};

TEST_F(SharedHistoryTest, BlocksOfOnePromptShareWhatCameBefore) {
  const SharedHistory shared = Find({Block(32, 24), Block(31, 24), Block(30, 24)});
  EXPECT_EQ(shared.blocks, 3u);
  EXPECT_EQ(shared.runs, 24u);
}

TEST_F(SharedHistoryTest, ABlockAloneHasItsFinishedChunks) {
  const SharedHistory shared = Find({Block(32, 4 * kChunks, 3)});
  EXPECT_EQ(shared.blocks, 1u);
  EXPECT_EQ(shared.runs, 4 * kChunks) << "what lies behind is not finished";
}

TEST_F(SharedHistoryTest, TheSmallestCommonPartCounts) {
  EXPECT_EQ(Find({Block(32, 30), Block(31, 20)}).runs, 20u);
  std::vector<QueryBlock> blocks = {Block(32, 30), Block(31, 30)};
  blocks[1].runs[1][17].tokens = 5;
  EXPECT_EQ(Find(blocks).runs, 17u);
  blocks[0].runs[0][16].first_row = 1;
  EXPECT_EQ(Find(blocks).runs, 16u);
}

TEST_F(SharedHistoryTest, OthersAreLeftOut) {
  EXPECT_EQ(Find({Block(32, 30), Block(31, 15)}).blocks, 1u) << "another sequence";
  EXPECT_EQ(Find({Block(32, 30), Block(31, 15)}).runs, 31u) << "the first one goes alone, with all that is finished";
  EXPECT_EQ(Find({Block(32, 30), Block(1, 30)}).blocks, 1u);
  EXPECT_EQ(Find({Block(1, 30), Block(32, 30)}).runs, 0u);
  EXPECT_EQ(Find({Block(32, 10)}).runs, 0u);
}

}  // namespace
}  // namespace hga
