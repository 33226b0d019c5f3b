#include "kv_store/tier/record_codec.h"

#include <cstring>

#include "common/kv/bf16.h"
#include "common/kv/kv_rows.h"
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

TEST(RecordCodec, PartsCarryBothChecksums) {
  const std::string data(64, 'x');
  const std::string value = PartHeader(EncodeBlockHeader(7), 9) + data;
  std::string out(64, '\0');
  uint8_t* to = reinterpret_cast<uint8_t*>(&out[0]);
  const auto checksums = DecodePart(value, 64, to);
  ASSERT_TRUE(checksums.ok()) << checksums.status();
  EXPECT_EQ(out, data);
  EXPECT_EQ(checksums->part, 9u);
  EXPECT_EQ(checksums->block, 7u);
  for (const size_t bytes : {size_t{0}, size_t{8}, size_t{23}, value.size() - 1}) {
    EXPECT_EQ(DecodePart(value.substr(0, bytes), 64, to).status().code(), absl::StatusCode::kDataLoss) << bytes;
  }
  EXPECT_EQ(JoinPacked({value, value}), "") << "they are not packed";
}

TEST(RecordCodec, PackedPartsMakeAPackedBlock) {
  constexpr uint32_t kHeadDim = 8;
  std::vector<bf16> rows(4 * kHeadDim);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = ToBf16(static_cast<float>(i));
  for (size_t row = 0; row < rows.size(); row += kHeadDim) RoundKvRow(KvDtype::kInt8, &rows[row], kHeadDim);
  const auto* const block = reinterpret_cast<const uint8_t*>(rows.data());
  const size_t bytes = rows.size() * sizeof(bf16);
  std::string packed;
  ASSERT_TRUE(PackBlock(KvDtype::kInt8, kHeadDim, block, bytes, &packed));
  const std::string header = EncodePackedHeader(BlockChecksum(block, bytes), KvDtype::kInt8, kHeadDim);
  const std::string first = PartHeader(header, 1) + packed.substr(0, packed.size() / 2),
                    second = PartHeader(header, 2) + packed.substr(packed.size() / 2);
  EXPECT_EQ(JoinPacked({first, second}), header + packed);
  std::vector<uint8_t> out(bytes / 2);
  ASSERT_TRUE(DecodePart(second, out.size(), out.data()).ok());
  EXPECT_EQ(std::memcmp(out.data(), block + bytes / 2, out.size()), 0);
  const std::string stranger = PartHeader(EncodePackedHeader(3, KvDtype::kInt8, kHeadDim), 2) + first.substr(24);
  EXPECT_EQ(JoinPacked({first, stranger}), "");
}

TEST(RecordCodec, KeysOfABlocksPartsFollowEachOther) {
  const BlockName name{HashBytes("a"), 258};
  EXPECT_EQ(PartKey(name, 0).substr(16), std::string("\0\0\1\2\0\0", 6));
  EXPECT_LT(PartKey(name, 255), PartKey(name, 256));
  EXPECT_LT(PartKey(name, 1023), PartKey({name.chunk, 259}, 0));
}

}  // namespace
}  // namespace hga
