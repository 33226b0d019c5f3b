// RocksDB's checksum function with the CPU's instruction for it. Debian builds RocksDB without, and then nearly half of
// what a flush of blobs computes is this. A function of an executable takes the place of a shared library's of the same
// name (rocks_crc32c_test.cc holds that it does); where the library binds its own, or is static, nothing changes.
#if defined(__x86_64__)

#include <nmmintrin.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace rocksdb {
namespace crc32c {

namespace {

std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
    table[byte] = crc;
  }
  return table;
}

uint32_t ExtendByTable(uint32_t crc, const char* data, size_t n) {
  static const std::array<uint32_t, 256> table = MakeTable();
  for (size_t i = 0; i < n; ++i) crc = (crc >> 8) ^ table[(crc ^ static_cast<uint8_t>(data[i])) & 0xff];
  return crc;
}

__attribute__((target("sse4.2"))) uint32_t ExtendByInstruction(uint32_t crc, const char* data, size_t n) {
  uint64_t wide = crc;
  for (; n >= sizeof(uint64_t); n -= sizeof(uint64_t), data += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, data, sizeof(word));
    wide = _mm_crc32_u64(wide, word);
  }
  crc = static_cast<uint32_t>(wide);
  for (; n > 0; --n, ++data) crc = _mm_crc32_u8(crc, static_cast<uint8_t>(*data));
  return crc;
}

}  // namespace

// As declared in RocksDB's util/crc32c.h: the checksum of A and then `data`, where init_crc is A's.
uint32_t Extend(uint32_t init_crc, const char* data, size_t n);
uint32_t Extend(uint32_t init_crc, const char* data, size_t n) {
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  return ~(has_instruction ? ExtendByInstruction : ExtendByTable)(~init_crc, data, n);
}

}  // namespace crc32c
}  // namespace rocksdb

#endif  // __x86_64__
