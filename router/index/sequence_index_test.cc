#include "router/index/sequence_index.h"

#include <cstring>

#include "common/kv/route_fixture.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

class SequenceIndexTest : public testing::Test {
 protected:
  void Fill(SequenceIndex* index, uint32_t chunks) {
    for (uint32_t i = index->chunks(); i < chunks; ++i) {
      ASSERT_TRUE(index->Append(i, chunks_[i], data_[i % kMade]).ok()) << i;
    }
  }

  static constexpr uint32_t kMade = 7;
  const KvGeometry g_ = SmallGeometry();
  const SummaryMethod* const mean_ = *FindSummaryMethod("mean");
  const SummaryMethod* const dealt_ = *FindSummaryMethod("dealt", g_, MadeUpEnergies(g_));
  const std::vector<ChunkHash> chunks_ = MadeUpChunks(3 * kSegmentChunks);
  std::vector<std::string> data_;

  void Make(const SummaryMethod& method) {
    for (uint32_t i = 0; i < kMade; ++i) data_.push_back(SummaryData(g_, method, i));
  }
};

// What is sent lies layer by layer, KV head by KV head; what is kept has each part beside its neighbours'.
TEST_F(SequenceIndexTest, PartsOfNeighboursFollowEachOther) {
  Make(*dealt_);
  SequenceIndex index(g_, dealt_);
  Fill(&index, kSegmentChunks + 5);
  const size_t coarse = dealt_->coarse_bytes(g_), fine = dealt_->fine_bytes(g_);
  for (const uint32_t chunk : {0u, 1u, kSegmentChunks - 1, kSegmentChunks, kSegmentChunks + 4}) {
    const auto* sent = reinterpret_cast<const uint8_t*>(data_[chunk % kMade].data());
    const std::vector<int16_t> extents = ChunkExtents(g_, *dealt_, sent);
    for (uint32_t i = 0; i < g_.layers * g_.kv_heads; ++i, sent += coarse + fine) {
      const uint32_t layer = i / g_.kv_heads, head = i % g_.kv_heads;
      EXPECT_EQ(std::memcmp(index.Coarse(layer, head, chunk), sent, coarse), 0) << chunk;
      EXPECT_EQ(std::memcmp(index.Fine(layer, head, chunk), sent + coarse, fine), 0) << chunk;
      EXPECT_EQ(std::memcmp(index.Extents(layer, head, chunk), &extents[i * kExtents], kExtents * sizeof(int16_t)), 0);
      if (chunk == 0 || SequenceIndex::SegmentEnd(chunk - 1) == chunk) continue;
      EXPECT_EQ(index.Coarse(layer, head, chunk), index.Coarse(layer, head, chunk - 1) + coarse);
      EXPECT_EQ(index.Fine(layer, head, chunk), index.Fine(layer, head, chunk - 1) + fine);
      EXPECT_EQ(index.Extents(layer, head, chunk), index.Extents(layer, head, chunk - 1) + kExtents);
    }
  }
}

TEST_F(SequenceIndexTest, WhatIsThereDoesNotMoveWhenMoreComes) {
  Make(*mean_);
  SequenceIndex index(g_, mean_);
  Fill(&index, 1);
  const uint8_t* const first = index.Fine(1, 1, 0);
  const uint64_t bytes = index.bytes();
  Fill(&index, kSegmentChunks);
  EXPECT_EQ(index.bytes(), bytes);
  Fill(&index, 3 * kSegmentChunks);
  EXPECT_EQ(index.bytes(), 3 * bytes);
  EXPECT_EQ(index.Fine(1, 1, 0), first);
  EXPECT_EQ(index.Extents(1, 1, 0), nullptr);  // no method of sketches
}

TEST_F(SequenceIndexTest, TakesChunksInOrderAndOnce) {
  Make(*mean_);
  SequenceIndex index(g_, mean_);
  Fill(&index, 3);
  EXPECT_TRUE(index.Append(1, chunks_[1], data_[1]).ok());  // again
  EXPECT_EQ(index.chunks(), 3u);
  EXPECT_EQ(index.Append(4, chunks_[4], data_[4]).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(index.Append(2, HashBytes("other"), data_[2]).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(index.chunks(), 3u);
  EXPECT_TRUE(index.Append(3, chunks_[3], data_[3]).ok());
}

TEST_F(SequenceIndexTest, RefusesDataOfAnotherSize) {
  Make(*mean_);
  SequenceIndex index(g_, mean_);
  EXPECT_EQ(index.Append(0, chunks_[0], data_[0] + "x").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(index.Append(0, chunks_[0], {data_[0].data(), data_[0].size() - 1}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(index.chunks(), 0u);
  EXPECT_EQ(index.bytes(), 0u);
}

}  // namespace
}  // namespace hga
