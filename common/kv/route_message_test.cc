#include "common/kv/route_message.h"

#include <functional>
#include <limits>
#include <random>

#include "gtest/gtest.h"

namespace hga {
namespace {

class RouteMessageTest : public testing::Test {
 protected:
  RouteMessageTest() {
    g_.layers = 3;
    g_.query_heads = 4;
    g_.kv_heads = 2;
    g_.head_dim = 8;
    for (int i = 0; i < 3 * 4 * 8; ++i) queries_.push_back(ToBf16(i));
    request_.step = 77;
    request_.layer = 2;
    request_.blocks = {{5, 1, 80, 9, budgets_, queries_.data()}, {6, 3, 0, 2, budgets_, queries_.data()}};
    for (int i = 0; i < 3 * 4; ++i) attended_.push_back(i);
    request_.blocks[1].shared = true;
    request_.blocks[1].attended = attended_.data();
    request_.blocks[1].least_share = 0.25f;
    request_.blocks[1].top_p = 0.5f;
    request_.blocks[1].residual = true;
    response_.step = 77;
    response_.layer = 2;
    response_.missed = {{}, std::vector<float>(3 * 4, 1.5f)};
    response_.missed[1][5] = -std::numeric_limits<float>::infinity();
    response_.blocks = {{{{1, 0, 0xF0000}, {8, 0, ~uint64_t{0}}}, {}},
                         {{{0, 2, 1}}, {{0, 1, 0x30}, {0, 2, 0xC0}, {1, 2, uint64_t{1} << 63}}}};
  }

  // As a span of 8-byte aligned memory.
  std::vector<uint64_t> EncodedRequest(size_t* bytes) {
    std::vector<uint64_t> buffer(RouteRequestBytes(g_, request_) / 8);
    *bytes = *EncodeRouteRequest(g_, request_, Bytes(buffer));
    return buffer;
  }
  static absl::Span<uint8_t> Bytes(std::vector<uint64_t>& buffer) {
    return {reinterpret_cast<uint8_t*>(buffer.data()), buffer.size() * 8};
  }

  KvGeometry g_;
  uint32_t budgets_[3] = {7, 8, 9};
  std::vector<bf16> queries_;
  std::vector<float> attended_;
  RouteRequest request_;
  RouteResponse response_;
};

TEST_F(RouteMessageTest, RequestSurvivesTheTrip) {
  size_t bytes = 0;
  auto buffer = EncodedRequest(&bytes);
  EXPECT_EQ(bytes, RouteRequestBytes(g_, request_));
  const auto decoded = DecodeRouteRequest(g_, Bytes(buffer));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_EQ(decoded->blocks.size(), 2u);
  EXPECT_EQ(decoded->step, 77u);
  EXPECT_EQ(decoded->layer, 2u);
  EXPECT_EQ(decoded->blocks[0].route_upto, 9u);
  EXPECT_EQ(decoded->blocks[1].sequence_id, 6u);
  EXPECT_EQ(decoded->blocks[1].budget_keys[2], 9u);
  EXPECT_EQ(ToFloat(decoded->blocks[1].queries[95]), 95.0f);
  EXPECT_FALSE(decoded->blocks[0].shared);
  EXPECT_FALSE(decoded->blocks[0].residual);
  EXPECT_TRUE(decoded->blocks[1].residual);
  EXPECT_EQ(decoded->blocks[0].attended, nullptr);
  EXPECT_TRUE(decoded->blocks[1].shared);
  EXPECT_EQ(decoded->blocks[1].attended[11], 11.0f);
  EXPECT_EQ(decoded->blocks[1].least_share, 0.25f);
  EXPECT_EQ(decoded->blocks[1].top_p, 0.5f);
}

TEST_F(RouteMessageTest, SharesOutsideTheirRangeAreRefused) {
  for (const float bad : {-0.1f, 1.5f, std::numeric_limits<float>::quiet_NaN()}) {
    for (float RouteBlock::*field : {&RouteBlock::least_share, &RouteBlock::top_p}) {
      const RouteBlock good = request_.blocks[1];
      request_.blocks[1].*field = bad;
      size_t bytes = 0;
      auto buffer = EncodedRequest(&bytes);
      EXPECT_EQ(DecodeRouteRequest(g_, Bytes(buffer)).status().code(), absl::StatusCode::kInvalidArgument) << bad;
      request_.blocks[1] = good;
    }
  }
}

TEST_F(RouteMessageTest, ResponseSurvivesTheTrip) {
  std::vector<uint64_t> buffer(RouteResponseBytesMax(g_, request_) / 8 + 1);
  const auto bytes = EncodeRouteResponse(g_, response_, Bytes(buffer));
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  const auto decoded = DecodeRouteResponse(g_, request_, Bytes(buffer).subspan(0, *bytes));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->blocks, response_.blocks);
  EXPECT_EQ(decoded->missed, response_.missed);
}

TEST_F(RouteMessageTest, WrongAnswersAreRefused) {
  const auto code_after = [&](const std::function<void()>& change) {
    const RouteResponse good = response_;
    change();
    std::vector<uint64_t> buffer(4096);
    const auto bytes = EncodeRouteResponse(g_, response_, Bytes(buffer));
    response_ = good;
    return DecodeRouteResponse(g_, request_, Bytes(buffer).subspan(0, *bytes)).status().code();
  };
  EXPECT_EQ(code_after([] {}), absl::StatusCode::kOk);
  const auto bad = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code_after([&] { response_.step = 78; }), bad);
  EXPECT_EQ(code_after([&] { response_.layer = 1; }), bad);
  EXPECT_EQ(code_after([&] { response_.blocks.pop_back(); }), bad);
  EXPECT_EQ(code_after([&] { response_.blocks[0][0] = {{0, 0, 1}}; }), bad);               // chunk before the range
  EXPECT_EQ(code_after([&] { response_.blocks[0][0] = {{1, 0, 0x8000}}; }), bad);          // key before the range
  EXPECT_EQ(code_after([&] { response_.blocks[0][0] = {{9, 0, 1}}; }), bad);               // after it
  EXPECT_EQ(code_after([&] { response_.blocks[0][0] = {{8, 0, 0}}; }), bad);               // no key
  EXPECT_EQ(code_after([&] { response_.blocks[0][0] = {{8, 0, 1}, {8, 0, 2}}; }), bad);    // the same place twice
  EXPECT_EQ(code_after([&] { response_.blocks[0][0] = {{8, 0, 1}, {7, 0, 1}}; }), bad);    // out of order
  EXPECT_EQ(code_after([&] { response_.blocks[1][0] = {{0, 0, 3}, {0, 1, 2}}; }), bad);    // a key twice
  EXPECT_EQ(code_after([&] { response_.blocks[0][0] = {{8, 1, 1}}; }), bad);               // token that is not there
  EXPECT_EQ(code_after([&] { response_.missed[1][2] = std::numeric_limits<float>::infinity(); }), bad);
  EXPECT_EQ(code_after([&] { response_.missed[1][2] = std::numeric_limits<float>::quiet_NaN(); }), bad);
  EXPECT_EQ(code_after([&] { response_.missed[1].clear(); }), bad);                        // was asked for
}

TEST_F(RouteMessageTest, SelectAllTakesEveryKeyOfTheRange) {
  HeadSelection all;
  SelectAll(g_, request_.blocks[0], &all);
  ASSERT_EQ(all.size(), 8u);
  EXPECT_EQ(all[0], (SelectedChunk{1, 0, ~uint64_t{0} << 16}));
  EXPECT_EQ(all[7], (SelectedChunk{8, 0, ~uint64_t{0}}));
  EXPECT_EQ(request_.blocks[0].keys(g_), 8u * 64 - 16);
  RouteBlock nothing = request_.blocks[0];
  nothing.route_upto = 1;
  SelectAll(g_, nothing, &all);
  EXPECT_TRUE(all.empty());
}

TEST_F(RouteMessageTest, TruncatedOrDamagedMessagesNeverReadOutside) {
  size_t bytes = 0;
  auto buffer = EncodedRequest(&bytes);
  for (size_t length = 0; length < bytes; ++length) {
    // A copy of exactly that length: a sanitizer sees any read behind it.
    std::vector<uint64_t> cut(buffer.begin(), buffer.begin() + (length + 7) / 8);
    EXPECT_FALSE(DecodeRouteRequest(g_, Bytes(cut).subspan(0, length)).ok());
  }
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    auto damaged = buffer;
    Bytes(damaged)[random() % bytes] ^= 1 << (random() % 8);
    const auto decoded = DecodeRouteRequest(g_, Bytes(damaged));
    if (!decoded.ok()) continue;
    for (const RouteBlock& block : decoded->blocks) EXPECT_LE(block.tokens, g_.chunk_tokens);
  }
}

TEST_F(RouteMessageTest, TooLittleRoomIsSaid) {
  std::vector<uint64_t> small(4);
  EXPECT_EQ(EncodeRouteRequest(g_, request_, Bytes(small)).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(EncodeRouteResponse(g_, response_, Bytes(small)).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace hga
