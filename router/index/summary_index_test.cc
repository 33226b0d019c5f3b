#include "router/index/summary_index.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

#include "common/kv/route_fixture.h"
#include "gtest/gtest.h"
#include "router/index/route_answerer.h"

namespace hga {
namespace {

class SummaryIndexTest : public testing::Test {
 protected:
  std::string Data(uint32_t chunk) const { return SummaryData(g_, *mean_, chunk); }
  // A store that has chunks [0, upto) of the made-up sequence.
  SummarySource Store(uint32_t upto, std::string method = "mean") {
    return [=](absl::Span<const ChunkHash> chunks, const SummarySink& sink) {
      for (const ChunkHash& chunk : chunks) {
        ++asked_;
        const auto found = std::find(chunks_.begin(), chunks_.begin() + upto, chunk);
        if (found == chunks_.begin() + upto) return absl::OkStatus();
        sink(chunk, method, Data(found - chunks_.begin()));
      }
      return absl::OkStatus();
    };
  }

  const KvGeometry g_ = SmallGeometry();
  const SummaryMethod* const mean_ = *FindSummaryMethod("mean");
  const std::vector<ChunkHash> chunks_ = MadeUpChunks(10);
  uint32_t asked_ = 0;
};

TEST_F(SummaryIndexTest, ReopenedAndForkedSequencesNeedNoTransfer) {
  SummaryIndex index({}, nullptr);
  ASSERT_EQ(index.Open(1, 1, g_, mean_, chunks_)->indexed_chunks, 0u);
  for (uint32_t i = 0; i < 10; ++i) ASSERT_EQ(*index.Append(1, 1, i, chunks_[i], Data(i)), i + 1);
  index.Close(1, 1);
  EXPECT_EQ(index.Find(1, 1), nullptr);
  auto fork = chunks_;
  fork[7] = HashBytes("other");
  const auto opened = index.Open(2, 5, g_, mean_, fork);
  EXPECT_EQ(opened->indexed_chunks, 7u);
  EXPECT_EQ(opened->from_memory_chunks, 7u);
  // The same bytes as were sent.
  EXPECT_EQ(std::memcmp(index.Find(2, 5)->Coarse(0, 0, 3), Data(3).data(), mean_->coarse_bytes(g_)), 0);
}

TEST_F(SummaryIndexTest, TheRestComesFromTheStore) {
  SummaryIndex index({}, Store(8));
  const auto opened = index.Open(1, 1, g_, mean_, chunks_);
  EXPECT_EQ(opened->indexed_chunks, 8u);
  EXPECT_EQ(opened->from_memory_chunks, 0u);
  EXPECT_EQ(index.totals().rebuilt_chunks, 8u);
  EXPECT_EQ(index.Open(1, 2, g_, mean_, absl::MakeConstSpan(chunks_).subspan(0, 8))->from_memory_chunks, 8u);
  EXPECT_EQ(index.totals().rebuilt_chunks, 8u);
  EXPECT_TRUE(index.Append(1, 1, 8, chunks_[8], Data(8)).ok());
}

TEST_F(SummaryIndexTest, OnlyWhatMemoryLacksIsAskedFor) {
  SummaryIndex index({}, Store(10));
  ASSERT_TRUE(index.Open(1, 1, g_, mean_, {}).ok());
  for (uint32_t i = 0; i < 4; ++i) ASSERT_TRUE(index.Append(1, 1, i, chunks_[i], Data(i)).ok());
  const auto opened = index.Open(1, 2, g_, mean_, chunks_);
  EXPECT_EQ(opened->indexed_chunks, 10u);
  EXPECT_EQ(opened->from_memory_chunks, 4u);
  EXPECT_EQ(asked_, 6u);
}

TEST_F(SummaryIndexTest, AStoreThatFailsOrHasAnotherMethodShortensTheIndex) {
  SummaryIndex failing({}, [](absl::Span<const ChunkHash>, const SummarySink&) {
    return absl::UnavailableError("gone");
  });
  EXPECT_EQ(failing.Open(1, 1, g_, mean_, chunks_)->indexed_chunks, 0u);
  SummaryIndex other({}, Store(8, "cuboid"));
  EXPECT_EQ(other.Open(1, 1, g_, mean_, chunks_)->indexed_chunks, 0u);
  SummaryIndex damaged({}, [&](absl::Span<const ChunkHash> chunks, const SummarySink& sink) {
    sink(chunks[0], "mean", Data(0));
    sink(chunks[1], "mean", "short");
    return absl::OkStatus();
  });
  EXPECT_EQ(damaged.Open(1, 1, g_, mean_, absl::MakeConstSpan(chunks_).subspan(0, 2))->indexed_chunks, 1u);
}

TEST_F(SummaryIndexTest, BoundsHold) {
  SummaryIndex index({3 * mean_->chunk_bytes(g_), 2}, nullptr);
  ASSERT_TRUE(index.Open(1, 1, g_, mean_, {}).ok());
  ASSERT_TRUE(index.Open(1, 2, g_, mean_, {}).ok());
  EXPECT_EQ(index.Open(1, 3, g_, mean_, {}).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(index.Open(1, 2, g_, mean_, {}).ok());  // again: takes its own place
  for (uint32_t i = 0; i < 5; ++i) ASSERT_TRUE(index.Append(1, 1, i, chunks_[i], Data(i)).ok());
  index.CloseWorker(1);
  EXPECT_EQ(index.totals().sequences, 0u);
  EXPECT_EQ(index.totals().bytes, 3 * mean_->chunk_bytes(g_));  // the three newest chunks
  EXPECT_EQ(index.Open(1, 1, g_, mean_, chunks_)->indexed_chunks, 0u);
  EXPECT_EQ(index.Open(1, 1, g_, mean_, absl::MakeConstSpan(chunks_).subspan(2, 3))->indexed_chunks, 3u);
}

TEST_F(SummaryIndexTest, UnknownSequence) {
  SummaryIndex index({}, nullptr);
  EXPECT_EQ(index.Append(1, 1, 0, chunks_[0], Data(0)).status().code(), absl::StatusCode::kNotFound);
}

// Steps go on while chunks are sealed and other sequences come and go.
TEST_F(SummaryIndexTest, SelectionsWhileItGrowsAreThoseOfAWholeIndex) {
  constexpr uint32_t kChunks = 2 * kSegmentChunks + 12;
  const SummaryMethod* const sketch = *FindSummaryMethod("sketch");
  const std::vector<ChunkHash> chunks = MadeUpChunks(kChunks);
  SummaryIndex whole({}, nullptr), growing({}, nullptr);
  ASSERT_TRUE(whole.Open(1, 1, g_, sketch, {}).ok() && growing.Open(1, 1, g_, sketch, {}).ok());
  std::vector<std::string> data;
  for (uint32_t i = 0; i < kChunks; ++i) {
    data.push_back(SummaryData(g_, *sketch, i));
    ASSERT_TRUE(whole.Append(1, 1, i, chunks[i], data[i]).ok());
  }

  std::atomic<uint32_t> seen{0};
  std::thread sealer([&] {
    for (uint32_t i = 0; i < kChunks; ++i) {
      while (i > seen + 20) std::this_thread::yield();  // so that each selection sees some come
      EXPECT_TRUE(growing.Append(1, 1, i, chunks[i], data[i]).ok());
    }
  });
  std::thread others([&] {
    for (uint64_t id = 2; seen < kChunks; ++id) {
      EXPECT_TRUE(growing.Open(1, id, g_, sketch, absl::MakeConstSpan(chunks).first(3)).ok());
      growing.Close(1, id);
    }
  });
  RouteAnswerer expected(&whole, 1, g_, SelectOptions()), answerer(&growing, 1, g_, SelectOptions(), /*threads=*/2);
  while (seen < kChunks) {
    const uint32_t now = growing.Find(1, 1)->chunks();
    if (now == seen) std::this_thread::yield();
    if (now == seen) continue;
    const MadeUpQueries prompt(g_, 4, 0, now, 40, now), token(g_, 1, 4, now, 20, now);
    RouteRequest request;
    request.layer = now % g_.layers;
    request.blocks = {prompt.block, token.block};
    RouteResponse as_whole, answer;
    EXPECT_TRUE(expected.Answer(request, &as_whole).ok() && answerer.Answer(request, &answer).ok());
    EXPECT_EQ(answer.blocks, as_whole.blocks) << now;
    seen = now;
  }
  sealer.join();
  others.join();
}

}  // namespace
}  // namespace hga
