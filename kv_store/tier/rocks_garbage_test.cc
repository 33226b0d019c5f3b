// The disk tier gives the room of what was deleted back.
#include "kv_store/tier/rocks_garbage.h"

#include <atomic>
#include <deque>
#include <thread>

#include "gtest/gtest.h"
#include "kv_store/tier/testing_rocks_tier.h"

namespace hga {
namespace {

class RocksGarbageTest : public RocksTierTest {
 protected:
  // Eight blob files of two chunks each; one of two goes from all but the last file.
  void WriteAndDelete() {
    options_.past_log_bytes = 1;
    Reopen();
    ASSERT_TRUE(tier_->SetGeometry(SampleGeometry()).ok());
    for (int i = 0; i < 16; i += 2) {
      for (int j : {i, i + 1}) chunks_.emplace_back(std::string(1, static_cast<char>('A' + j)));
      WriteStep step;
      step.put_chunks = {chunks_[i].write, chunks_[i + 1].write};
      ASSERT_TRUE(tier_->Write(step).ok());
    }
    WriteStep step;
    for (int i = 1; i < 15; i += 2) step.delete_chunks.push_back(chunks_[i].write.record->hash);
    ASSERT_TRUE(tier_->Write(step).ok());
  }
  uint64_t BlobBytes() const {
    uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(options_.data_dir)) {
      if (entry.path().extension() == ".blob") bytes += entry.file_size();
    }
    return bytes;
  }
  void ExpectTheLiveToBeThere() {
    for (int i = 0; i < 16; i += (i == 14 ? 1 : 2)) {
      std::string out;
      EXPECT_TRUE(Read(chunks_[i].block(2), &out).ok()) << i;
      EXPECT_EQ(out, chunks_[i].bytes[2]);
      EXPECT_TRUE(tier_->ReadSummary(chunks_[i].write.record->hash).ok()) << i;
    }
  }

  std::deque<SampleChunk> chunks_;
};

TEST_F(RocksGarbageTest, GivesTheRoomBackWhileOthersReadAndWrite) {
  WriteAndDelete();
  const uint64_t before = BlobBytes();
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) ExpectTheLiveToBeThere();
  });
  Compaction compaction;
  std::thread compacting([&] { EXPECT_TRUE(tier_->Compact(&compaction).ok()); });
  const SampleChunk late("late");
  Put(late);
  compacting.join();
  EXPECT_LT(BlobBytes(), before * 3 / 4) << "also while somebody reads";
  stop = true;
  reader.join();
  EXPECT_GT(compaction.all_bytes, 0u);
  EXPECT_EQ(compaction.done_bytes, compaction.all_bytes);
  EXPECT_EQ(tier_->Stats().garbage_bytes, 0u);
  Reopen();
  ASSERT_TRUE(tier_->GetGeometry().ok());
  ExpectTheLiveToBeThere();
  std::string out;
  EXPECT_TRUE(Read(late.block(0), &out).ok());
  Compaction again;
  EXPECT_TRUE(tier_->Compact(&again).ok());
  EXPECT_EQ(again.all_bytes, 0u) << "nothing is left to do";
}

TEST_F(RocksGarbageTest, CancelledLosesNothing) {
  WriteAndDelete();
  Compaction compaction;
  compaction.cancelled = true;
  EXPECT_EQ(tier_->Compact(&compaction).code(), absl::StatusCode::kCancelled);
  ExpectTheLiveToBeThere();
  Compaction second;
  EXPECT_TRUE(tier_->Compact(&second).ok());
  EXPECT_EQ(tier_->Stats().garbage_bytes, 0u);
  ExpectTheLiveToBeThere();
}

}  // namespace
}  // namespace hga
