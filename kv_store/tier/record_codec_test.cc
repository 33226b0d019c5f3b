#include "kv_store/tier/record_codec.h"

#include <cstring>

#include "gtest/gtest.h"

namespace hga {
namespace {

SessionRecord Sample() {
  SessionRecord r;
  r.name = "book";
  r.model = HashBytes("model");
  r.epoch = 9;
  r.last_used_unix_s = 1234;
  r.chunks = {HashBytes("a"), HashBytes("b")};
  r.tail_tokens = {7, 8, 9};
  return r;
}

TEST(RecordCodec, SessionRoundTrip) {
  const auto back = DecodeSession(EncodeSession(Sample()));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->name, "book");
  EXPECT_EQ(back->model, HashBytes("model"));
  EXPECT_EQ(back->epoch, 9u);
  EXPECT_EQ(back->chunks, Sample().chunks);
  EXPECT_EQ(back->tail_tokens, Sample().tail_tokens);
}

// A session that is not pinned has the bytes that it always had; one that is pinned is of a version that an older
// kv_store refuses instead of taking it for damaged.
TEST(RecordCodec, OnlyPinnedSessionsAreOfTheNextVersion) {
  SessionRecord pinned = Sample();
  pinned.pinned = true;
  EXPECT_EQ(EncodeSession(Sample())[0], 1);
  EXPECT_EQ(EncodeSession(pinned)[0], 2);
  EXPECT_FALSE(DecodeSession(EncodeSession(Sample()))->pinned);
  const auto back = DecodeSession(EncodeSession(pinned));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(back->pinned);
  EXPECT_EQ(back->tail_tokens, pinned.tail_tokens);
}

TEST(RecordCodec, ChunkAndSummaryRoundTrip) {
  const ChunkRecord chunk{HashBytes("c"), HashBytes("p"), {1, 2, 3}, {11, 12}};
  const auto back = DecodeChunk(EncodeChunk(chunk));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->hash, chunk.hash);
  EXPECT_EQ(back->parent, chunk.parent);
  EXPECT_EQ(back->token_ids, chunk.token_ids);
  EXPECT_EQ(back->checksums, chunk.checksums);
  const auto summary = DecodeSummary(EncodeSummary({"mean", "bytes"}));
  ASSERT_TRUE(summary.ok());
  EXPECT_EQ(summary->method, "mean");
  EXPECT_EQ(summary->data, "bytes");
}

TEST(RecordCodec, EveryFlippedByteAndEveryCutIsDataLoss) {
  const std::string good = EncodeSession(Sample());
  for (size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] ^= 0x20;
    EXPECT_EQ(DecodeSession(bad).status().code(), absl::StatusCode::kDataLoss) << i;
    EXPECT_EQ(DecodeSession(good.substr(0, i)).status().code(), absl::StatusCode::kDataLoss) << i;
  }
}

TEST(RecordCodec, AnotherVersionIsNotDamage) {
  std::string later = EncodeSession(Sample());
  later[0] = 99;
  const uint64_t checksum = BlockChecksum(later.data(), later.size() - sizeof(checksum));
  std::memcpy(&later[later.size() - sizeof(checksum)], &checksum, sizeof(checksum));
  EXPECT_EQ(DecodeSession(later).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*DecodeStoreVersion(EncodeStoreVersion(7)), 7u);
}

TEST(RecordCodec, BlockIsCheckedAgainstItsHeader) {
  const std::string data(64, 'x');
  const std::string value = EncodeBlockHeader(BlockChecksum(data.data(), data.size())) + data;
  std::string out(64, '\0');
  uint8_t* to = reinterpret_cast<uint8_t*>(&out[0]);
  ASSERT_TRUE(DecodeBlock(value, 64, to).ok());
  EXPECT_EQ(out, data);
  EXPECT_EQ(DecodeBlock(value, 63, to).status().code(), absl::StatusCode::kDataLoss);
  std::string bad = value;
  bad[0] = 2;
  EXPECT_EQ(DecodeBlock(bad, 64, to).status().code(), absl::StatusCode::kDataLoss);
  bad = value;
  bad.back() ^= 1;
  EXPECT_EQ(DecodeBlock(bad, 64, to).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace hga
