#include "kv_store/ring/fetch_message.h"

#include <cstring>

#include "gtest/gtest.h"

namespace hga {
namespace {

using absl::StatusCode;

std::vector<uint8_t> Encoded(const RingFetch& request) {
  std::vector<uint8_t> slot(kFetchRingBytes);
  const auto bytes = EncodeRingFetch(request, absl::MakeSpan(slot));
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  slot.resize(bytes.ok() ? *bytes : 0);
  return slot;
}
std::vector<uint8_t> Encoded(uint64_t serial, const std::vector<RingFetched>& blocks) {
  std::vector<uint8_t> slot(kFetchRingBytes);
  const auto bytes = EncodeRingFetched(serial, blocks, absl::MakeSpan(slot));
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  slot.resize(bytes.ok() ? *bytes : 0);
  return slot;
}
template <typename T>
void Poke(size_t offset, T value, std::vector<uint8_t>* message) {
  std::memcpy(message->data() + offset, &value, sizeof(value));
}

const RingFetch kRequest{7, {3, 9, 4000000000u}, {{{HashBytes("a"), 0}, 5}, {{HashBytes("b"), 29}, kAllHeads}}};
const std::vector<RingFetched> kAnswer = {{StatusCode::kOk, 12, true}, {StatusCode::kNotFound, 0, false}};

TEST(FetchMessage, ComesBackAsItWasSent) {
  const auto request = DecodeRingFetch(Encoded(kRequest));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->serial, 7u);
  EXPECT_EQ(request->releases, kRequest.releases);
  EXPECT_EQ(request->blocks, kRequest.blocks);
  const auto answer = DecodeRingFetched(kRequest, Encoded(7, kAnswer));
  ASSERT_TRUE(answer.ok()) << answer.status();
  ASSERT_EQ(answer->size(), 2u);
  EXPECT_EQ((*answer)[0].slot, 12u);
  EXPECT_TRUE((*answer)[0].from_disk);
  EXPECT_EQ((*answer)[1].code, StatusCode::kNotFound);
  EXPECT_FALSE((*answer)[1].from_disk);
}

TEST(FetchMessage, EverySizeButItsOwnIsRefused) {
  std::vector<uint8_t> request = Encoded(kRequest), answer = Encoded(7, kAnswer);
  for (size_t bytes = 0; bytes < request.size(); ++bytes) {
    EXPECT_FALSE(DecodeRingFetch({request.data(), bytes}).ok()) << bytes;
  }
  for (size_t bytes = 0; bytes < answer.size(); ++bytes) {
    EXPECT_FALSE(DecodeRingFetched(kRequest, {answer.data(), bytes}).ok()) << bytes;
  }
  request.push_back(0);
  answer.push_back(0);
  EXPECT_EQ(DecodeRingFetch(request).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(DecodeRingFetched(kRequest, answer).status().code(), StatusCode::kInvalidArgument);
}

TEST(FetchMessage, CountsThatLieAreRefused) {
  for (const uint32_t count : {0u, 2u, 4u, 1u << 30, ~0u}) {
    std::vector<uint8_t> request = Encoded(kRequest);
    Poke(8, count, &request);
    EXPECT_FALSE(DecodeRingFetch(request).ok()) << count;
    request = Encoded(kRequest);
    if (count == 2) continue;  // as it is
    Poke(12, count, &request);
    EXPECT_FALSE(DecodeRingFetch(request).ok()) << count;
  }
}

TEST(FetchMessage, AnswersToSomethingElseAreRefused) {
  EXPECT_FALSE(DecodeRingFetched(kRequest, Encoded(8, kAnswer)).ok());
  EXPECT_FALSE(DecodeRingFetched(kRequest, Encoded(7, {kAnswer[0]})).ok());
  for (const size_t offset : {size_t{12}, size_t{16}, size_t{24}}) {  // padding, code, tier
    std::vector<uint8_t> answer = Encoded(7, kAnswer);
    Poke(offset, 77u, &answer);
    EXPECT_FALSE(DecodeRingFetched(kRequest, answer).ok()) << offset;
  }
}

TEST(FetchMessage, WhatFitsIsSaidBefore) {
  const RingFetch full{1, {}, std::vector<BlockHeads>((kFetchRingBytes - 16) / 28)};
  EXPECT_TRUE(FitsRing(0, full.blocks.size()));
  EXPECT_FALSE(FitsRing(0, full.blocks.size() + 1));
  EXPECT_FALSE(FitsRing(100, full.blocks.size()));
  EXPECT_FALSE(FitsRing(~size_t{0}, ~size_t{0}));
  EXPECT_EQ(DecodeRingFetch(Encoded(full))->blocks.size(), full.blocks.size());
  std::vector<uint8_t> small(20);
  EXPECT_EQ(EncodeRingFetch(kRequest, absl::MakeSpan(small)).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(EncodeRingFetched(7, kAnswer, absl::MakeSpan(small)).status().code(), StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace hga
