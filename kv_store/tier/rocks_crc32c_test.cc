#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "gtest/gtest.h"
#include "rocksdb/file_checksum.h"

namespace rocksdb {
namespace crc32c {
uint32_t Extend(uint32_t init_crc, const char* data, size_t n);
}  // namespace crc32c
}  // namespace rocksdb

namespace hga {
namespace {

TEST(RocksCrc32c, KnownValues) {
  EXPECT_EQ(rocksdb::crc32c::Extend(0, "123456789", 9), 0xe3069283u);
  EXPECT_EQ(rocksdb::crc32c::Extend(rocksdb::crc32c::Extend(0, "1234", 4), "56789", 5), 0xe3069283u);
  EXPECT_EQ(rocksdb::crc32c::Extend(7, "", 0), 7u);
  const std::string zeros(32, '\0');
  EXPECT_EQ(rocksdb::crc32c::Extend(0, zeros.data(), zeros.size()), 0x8a9136aau);
}

// The database's own, from the library itself, and ours agree on every length and offset.
TEST(RocksCrc32c, EqualsTheLibrarys) {
  ASSERT_NE(rocksdb::GetFileChecksumGenCrc32cFactory(), nullptr);  // so that the library is linked
  void* const library = ::dlopen("librocksdb.so.7.8", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) GTEST_SKIP() << "RocksDB is linked statically, or is another version";
  using Function = uint32_t (*)(uint32_t, const char*, size_t);
  const auto original = reinterpret_cast<Function>(::dlsym(library, "_ZN7rocksdb6crc32c6ExtendEjPKcm"));
  ASSERT_NE(original, nullptr);
  std::string data;
  for (int i = 0; i < 300; ++i) data.push_back(static_cast<char>(i * 37 + i / 7));
  for (size_t begin = 0; begin < 9; ++begin) {
    for (size_t n = 0; n + begin < data.size(); ++n) {
      ASSERT_EQ(rocksdb::crc32c::Extend(5, &data[begin], n), original(5, &data[begin], n)) << begin << " " << n;
    }
  }
  // The library calls ours.
  EXPECT_EQ(::dlsym(RTLD_DEFAULT, "_ZN7rocksdb6crc32c6ExtendEjPKcm"),
            reinterpret_cast<void*>(static_cast<Function>(rocksdb::crc32c::Extend)));
  EXPECT_NE(reinterpret_cast<void*>(original), ::dlsym(RTLD_DEFAULT, "_ZN7rocksdb6crc32c6ExtendEjPKcm"));
}

}  // namespace
}  // namespace hga
