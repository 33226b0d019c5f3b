#include "common/shm/ring.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <thread>

#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint64_t kSlot = 8192;
constexpr size_t kState = 64, kCode = 76, kBytes = 80;  // offsets in the file, as ring.h documents them

class RingTest : public testing::Test {
 protected:
  RingTest() {
    char folder[] = "/tmp/hga.XXXXXX";
    folder_ = mkdtemp(folder);
    path_ = folder_ + "/ring";
  }
  ~RingTest() override { std::filesystem::remove_all(folder_); }

  static absl::Status PostText(ClientRing* ring, const std::string& text) {
    return ring->Post([&](absl::Span<uint8_t> slot) -> absl::StatusOr<size_t> {
      std::memcpy(slot.data(), text.data(), text.size());
      return text.size();
    });
  }
  static absl::StatusOr<std::string> WaitText(ClientRing* ring, absl::Duration timeout = absl::Seconds(10)) {
    std::string text;
    const absl::Status status = ring->Wait(timeout, [&](absl::Span<const uint8_t> message) {
      text.assign(message.begin(), message.end());
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
    return text;
  }
  // Answers each message with itself and "!" until the ring closes.
  static void Echo(ServerRing* ring) {
    while (true) {
      const auto request = ring->WaitPosted(absl::InfiniteDuration());
      if (!request.ok()) return;
      const std::string text(request->begin(), request->end());
      ring->Answer([&](absl::Span<uint8_t> slot) -> absl::StatusOr<size_t> {
            if (text == "fail") return absl::FailedPreconditionError("as asked");
            std::memcpy(slot.data(), (text + "!").data(), text.size() + 1);
            return text.size() + 1;
          }).IgnoreError();
    }
  }
  // Writes over the shared header.
  template <typename T>
  void Poke(size_t offset, T value) {
    const auto file = MappedFile::Open(path_, offset + sizeof(T));
    ASSERT_TRUE(file.ok());
    std::memcpy(file->data() + offset, &value, sizeof(T));
  }

  std::string folder_, path_;
};

TEST_F(RingTest, ManyExchangesAsleepAndSpinning) {
  for (int spin_us : {0, 200}) {
    auto server = ServerRing::Create(path_, kSlot, spin_us);
    ASSERT_TRUE(server.ok()) << server.status();
    auto client = ClientRing::Open(path_, kSlot, spin_us);
    ASSERT_TRUE(client.ok()) << client.status();
    std::thread thread(Echo, &*server);
    for (int i = 0; i < 2000; ++i) {
      ASSERT_TRUE(PostText(&*client, std::to_string(i)).ok());
      ASSERT_EQ(*WaitText(&*client), std::to_string(i) + "!");
    }
    server->Close();
    thread.join();
    EXPECT_EQ(PostText(&*client, "x").code(), absl::StatusCode::kUnavailable);
  }
}

TEST_F(RingTest, TheServersErrorArrivesAndTheRingGoesOn) {
  auto server = ServerRing::Create(path_, kSlot, 0);
  auto client = ClientRing::Open(path_, kSlot, 0);
  std::thread thread(Echo, &*server);
  ASSERT_TRUE(PostText(&*client, "fail").ok());
  EXPECT_EQ(WaitText(&*client).status(), absl::FailedPreconditionError("as asked"));
  ASSERT_TRUE(PostText(&*client, "again").ok());
  EXPECT_EQ(*WaitText(&*client), "again!");
  client->Close();
  thread.join();
}

TEST_F(RingTest, CloseWakesTheSleeper) {
  auto server = ServerRing::Create(path_, kSlot, 0);
  auto client = ClientRing::Open(path_, kSlot, 0);
  ASSERT_TRUE(PostText(&*client, "x").ok());
  std::thread closer([&] { server->Close(); });
  EXPECT_EQ(WaitText(&*client, absl::Seconds(60)).status().code(), absl::StatusCode::kUnavailable);
  closer.join();
}

TEST_F(RingTest, NoAnswerInTimeClosesTheRing) {
  auto server = ServerRing::Create(path_, kSlot, 0);
  auto client = ClientRing::Open(path_, kSlot, 0);
  EXPECT_EQ(WaitText(&*client).status().code(), absl::StatusCode::kFailedPrecondition);  // nothing posted
  ASSERT_TRUE(PostText(&*client, "x").ok());
  EXPECT_EQ(PostText(&*client, "y").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(WaitText(&*client, absl::Milliseconds(1)).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(server->WaitPosted(absl::Seconds(60)).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(RingTest, NothingPostedYetIsNoError) {
  auto server = ServerRing::Create(path_, kSlot, 0);
  EXPECT_EQ(server->WaitPosted(absl::Milliseconds(1)).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(server->closed());
}

TEST_F(RingTest, GarbageInTheHeaderClosesTheRing) {
  {
    auto server = ServerRing::Create(path_, kSlot, 0);
    Poke<uint64_t>(kBytes, kSlot + 1);
    Poke<uint32_t>(kState, 1);
    EXPECT_EQ(server->WaitPosted(absl::Seconds(60)).status().code(), absl::StatusCode::kUnavailable);
    EXPECT_TRUE(server->closed());
  }
  {
    auto server = ServerRing::Create(path_, kSlot, 0);
    Poke<uint32_t>(kState, 77);
    EXPECT_EQ(server->WaitPosted(absl::Seconds(60)).status().code(), absl::StatusCode::kUnavailable);
  }
  for (const auto& [bytes, code] : {std::pair<uint64_t, uint32_t>{kSlot + 1, 0}, {~uint64_t{0}, 0}, {10, 999}}) {
    auto server = ServerRing::Create(path_, kSlot, 0);
    auto client = ClientRing::Open(path_, kSlot, 0);
    ASSERT_TRUE(PostText(&*client, "x").ok());
    Poke<uint64_t>(kBytes, bytes);
    Poke<uint32_t>(kCode, code);
    Poke<uint32_t>(kState, 2);
    EXPECT_EQ(WaitText(&*client).status().code(), absl::StatusCode::kUnavailable);
    EXPECT_TRUE(server->closed());
  }
}

TEST_F(RingTest, OnlyARingOfThisShapeIsOpened) {
  EXPECT_EQ(ServerRing::Create(path_, 1, 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ServerRing::Create(path_, uint64_t{1} << 60, 0).status().code(), absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(ServerRing::Create(path_, kSlot, 0).ok());
  EXPECT_EQ(ClientRing::Open(path_, kSlot * 2, 0).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ClientRing::Open(path_, kSlot / 2, 0).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(ClientRing::Open(path_, kSlot, 0).ok());
  Poke<uint32_t>(8, 2);  // another version
  EXPECT_EQ(ClientRing::Open(path_, kSlot, 0).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace hga
