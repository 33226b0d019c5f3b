// Clients that are killed with SIGKILL while they hold slots: the slots come back, and not before the last mapping of
// the arena through that client is gone.
#include <signal.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "kv_store/client/grpc_kv_client.h"
#include "tests/support/kv_store_process.h"
#include "tests/support/patience.h"

namespace hga {
namespace {

constexpr uint32_t kSlots = 256;
constexpr uint32_t kHeld = 40;

class DeadClientTest : public ::testing::Test {
 protected:
  DeadClientTest() : store_({"--arena_bytes=1MiB"}) {}

  void SetUp() override {
    ASSERT_EQ(store_.Start(), absl::OkStatus());
    KvGeometry g;
    g.layers = 2;
    g.query_heads = g.kv_heads = 1;
    g.head_dim = 16;
    auto client = GrpcKvClient::Attach({store_.address(), "watcher", g});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    ASSERT_EQ(client_->GetStats()->slots_total, kSlots);
  }

  struct Holder {
    Process process;
    std::set<uint32_t> slots;
    int child = 0;
  };
  Holder StartHolder(int number, const std::string& then = "") {
    const std::string log = absl::StrCat(store_.folder(), "/holder", number);
    std::vector<std::string> argv = {absl::StrCat(std::getenv("TEST_SRCDIR"), "/hga_serve/tests/fault/slot_holder"),
                                     store_.address(), absl::StrCat(kHeld)};
    if (!then.empty()) argv.push_back(then);
    Holder holder;
    auto started = Process::Start(argv, log);
    EXPECT_TRUE(started.ok()) << started.status();
    if (!started.ok()) return holder;
    holder.process = *std::move(started);
    for (Patience patience; ReadFileOrEmpty(log).find(" end") == std::string::npos && patience.Lasts();) {
      absl::SleepFor(absl::Milliseconds(2));
    }
    std::istringstream words(ReadFileOrEmpty(log));
    for (std::string word; words >> word;) {
      if (word == "child") {
        words >> holder.child;
      } else if (word != "holding" && word != "end") {
        holder.slots.insert(static_cast<uint32_t>(std::atoi(word.c_str())));
      }
    }
    EXPECT_EQ(holder.slots.size(), kHeld) << ReadFileOrEmpty(log);
    return holder;
  }
  // Takes every slot there is to take and gives them back; false if one of `forbidden` was among them.
  bool NoneOf(const std::set<uint32_t>& forbidden) {
    bool good = true;
    for (uint32_t count = kSlots; count > 0; count /= 2) {
      const auto blocks = client_->Reserve(count);
      if (!blocks.ok()) continue;
      for (const HeldBlock& block : *blocks) good = good && forbidden.count(block.slot()) == 0;
      break;
    }
    return good;
  }
  bool AllComeBack() {
    for (Patience patience; patience.Lasts();) {
      const auto stats = client_->GetStats();
      if (stats.ok() && stats->slots_free == kSlots) return true;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return false;
  }

  size_t Rings() const {
    size_t rings = 0;
    for (const auto& entry : std::filesystem::directory_iterator(store_.folder())) {
      rings += entry.path().filename().string().rfind("arena.ring-", 0) == 0;
    }
    return rings;
  }

  KvStoreProcess store_;
  std::unique_ptr<GrpcKvClient> client_;
};

TEST_F(DeadClientTest, SlotsComeBack) {
  std::vector<Holder> holders;
  std::set<uint32_t> held;
  for (int i = 0; i < 3; ++i) {
    holders.push_back(StartHolder(i));
    held.insert(holders.back().slots.begin(), holders.back().slots.end());
  }
  ASSERT_EQ(held.size(), 3 * kHeld) << "two clients were given one slot";
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(NoneOf(held));
  for (Holder& holder : holders) holder.process.Signal(SIGKILL);
  EXPECT_TRUE(AllComeBack());
  for (Holder& holder : holders) EXPECT_TRUE(holder.process.Wait().ok());
}

TEST_F(DeadClientTest, NotBeforeTheLastMappingIsGone) {
  Holder holder = StartHolder(0, "fork");
  ASSERT_GT(holder.child, 0);
  holder.process.Signal(SIGKILL);
  ASSERT_TRUE(holder.process.Wait().ok());
  // The store notices within milliseconds that the stream has ended; the child still maps what was held.
  for (int i = 0; i < 50; ++i) {
    EXPECT_TRUE(NoneOf(holder.slots));
    absl::SleepFor(absl::Milliseconds(4));
  }
  ::kill(holder.child, SIGKILL);
  EXPECT_TRUE(AllComeBack());
}

// They do nothing but exchanges, so that is what they are killed in: some while they ask, some while they are answered.
TEST_F(DeadClientTest, ClientsKilledInAnExchangeLeaveNothing) {
  for (int round = 0; round < 8; ++round) {
    Holder holder = StartHolder(round, "fetch");
    EXPECT_EQ(Rings(), 2u);  // the watcher's and its own
    const absl::Time kill = absl::Now() + absl::Microseconds(1700 * round);
    while (absl::Now() < kill) {
    }
    ASSERT_TRUE(holder.process.running()) << "it ended by itself";
    holder.process.Signal(SIGKILL);
    EXPECT_TRUE(AllComeBack()) << store_.log();
    EXPECT_TRUE(holder.process.Wait().ok());
    for (Patience patience; Rings() != 1 && patience.Lasts();) absl::SleepFor(absl::Milliseconds(2));
    EXPECT_EQ(Rings(), 1u);
  }
  EXPECT_TRUE(store_.process().running());
}

}  // namespace
}  // namespace hga
