#include "kv_store/options.h"

#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <vector>

#include "gtest/gtest.h"

namespace hga {
namespace {

std::optional<int> Parse(std::vector<const char*> args, KvStoreOptions* options) {
  args.insert(args.begin(), "kv_store");
  return ParseOptions(static_cast<int>(args.size()), args.data(), options);
}

TEST(Options, DefaultsAreValid) {
  KvStoreOptions o;
  EXPECT_EQ(Parse({}, &o), std::nullopt);
  EXPECT_TRUE(o.Validate().ok()) << o.Validate();
}

TEST(Options, SizesTakeUnits) {
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("512MiB"), 512ull << 20);
  EXPECT_EQ(*ParseBytes("2GiB"), 2ull << 30);
  for (const char* bad : {"", "MiB", "-1", "1.5GiB", "3XiB", "99999999999TiB"})
    EXPECT_FALSE(ParseBytes(bad).ok()) << bad;
  KvStoreOptions o;
  EXPECT_EQ(Parse({"--arena_bytes", "3GiB"}, &o), std::nullopt);
  EXPECT_EQ(o.arena_bytes, 3ull << 30);
  EXPECT_EQ(Parse({"--arena_bytes", "3GiB", "--arena_bytes", "2MiB"}, &o),
            std::nullopt);  // the last one wins
  EXPECT_EQ(o.arena_bytes, 2ull << 20);
}

TEST(Options, BadFlagsExitWithTwo) {
  const std::vector<std::vector<const char*>> bad = {{"--nonsense"},
                                                     {"--arena_bytes", "lots"},
                                                     {"--arena_bytes", "1"},
                                                     {"--commit_ack", "never"},
                                                     {"--packed_ram_bytes", "64MiB"},
                                                     {"--packed_ram_bytes", "64MiB", "--kv_dtype", "bf16"},
                                                     {"--packed_ram_bytes", "1", "--kv_dtype", "int8"},
                                                     {"--listen", "nowhere"},
                                                     {"--arena_path", "relative"},
                                                     {"--shutdown_flush_seconds", "86401"},
                                                     {"--writeback_queue_chunks", "0"}};
  for (const auto& args : bad) {
    KvStoreOptions o;
    EXPECT_EQ(Parse(args, &o), std::optional<int>(2)) << args[0];
  }
}

TEST(Options, PackedRamNeedsAnEightBitType) {
  KvStoreOptions o;
  EXPECT_EQ(o.packed_ram_bytes, 0u);
  EXPECT_EQ(Parse({"--packed_ram_bytes", "64MiB", "--kv_dtype", "int8"}, &o), std::nullopt);
  EXPECT_EQ(o.packed_ram_bytes, 64ull << 20);
}

TEST(Options, ConfigFileIsReadAndFlagsWin) {
  char path[] = "/tmp/hga.XXXXXX";
  const int fd = ::mkstemp(path);
  ASSERT_GE(fd, 0);
  const std::string text = "commit_ack=\"disk\"\narena_bytes=\"64MiB\"\n";
  ASSERT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  ::close(fd);
  KvStoreOptions o;
  EXPECT_EQ(Parse({"--config", path, "--arena_bytes", "32MiB"}, &o), std::nullopt);
  EXPECT_EQ(o.commit_ack, "disk");
  EXPECT_EQ(o.arena_bytes, 32ull << 20);
  ::unlink(path);
}

}  // namespace
}  // namespace hga
