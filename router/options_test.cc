#include "router/options.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "gtest/gtest.h"

namespace hga {
namespace {

std::optional<int> Parse(std::vector<const char*> argv, RouterOptions* options) {
  argv.insert(argv.begin(), "router");
  return ParseOptions(static_cast<int>(argv.size()), argv.data(), options);
}

TEST(RouterOptionsTest, FlagsAndSizes) {
  RouterOptions options;
  EXPECT_EQ(Parse({"--listen=unix:/tmp/x.sock", "--cache_bytes=3MiB", "--metrics_listen=", "--overprovision=2",
                   "--scan_chunks=1024"},
                  &options),
            std::nullopt);
  EXPECT_EQ(options.listen, "unix:/tmp/x.sock");
  EXPECT_EQ(options.cache_bytes, 3u << 20);
  EXPECT_EQ(options.metrics_listen, "");
  EXPECT_EQ(options.select.overprovision, 2u);
  EXPECT_EQ(options.select.scan_chunks, 1024u);
}

TEST(RouterOptionsTest, BadValuesEndWithTwo) {
  for (const char* flag : {"--listen=nowhere", "--kv_store=nowhere", "--ring_dir=relative", "--spin_us=-1",
                           "--overprovision=0", "--max_sequences=0", "--cache_bytes=much", "--unknown=1"}) {
    RouterOptions options;
    EXPECT_EQ(Parse({flag}, &options), 2) << flag;
  }
}

TEST(RouterOptionsTest, HelpEndsWithZero) {
  RouterOptions options;
  EXPECT_EQ(Parse({"--help"}, &options), 0);
}

TEST(RouterOptionsTest, ConfigFile) {
  char path[] = "/tmp/hga.XXXXXX";
  const int fd = mkstemp(path);
  ASSERT_GE(fd, 0);
  close(fd);
  std::ofstream(path) << "max_sequences=7\n";
  RouterOptions options;
  EXPECT_EQ(Parse({"--config", path}, &options), std::nullopt);
  EXPECT_EQ(options.max_sequences, 7u);
  std::remove(path);
}

}  // namespace
}  // namespace hga
