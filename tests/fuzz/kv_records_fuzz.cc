// What kv_store reads from disk (manifests, chunks, summaries, geometry, version, blocks) and session files on any
// bytes: they decode to something bounded, and to the same bytes again, or are refused.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "common/base/check.h"
#include "kv_store/tier/memory_tier.h"
#include "kv_store/tier/record_codec.h"
#include "kv_store/tool/import.h"

namespace {

// The checksum would keep nearly every input from the code behind it.
std::string WithChecksum(std::string bytes) {
  const uint64_t checksum = hga::BlockChecksum(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  return bytes;
}

void Decode(const std::string& bytes) {
  if (const auto r = hga::DecodeSession(bytes); r.ok()) HGA_CHECK(hga::EncodeSession(*r) == bytes);
  if (const auto r = hga::DecodeChunk(bytes); r.ok()) HGA_CHECK(hga::EncodeChunk(*r) == bytes);
  if (const auto r = hga::DecodeSummary(bytes); r.ok()) HGA_CHECK(hga::EncodeSummary(*r) == bytes);
  if (const auto r = hga::DecodeGeometry(bytes); r.ok()) HGA_CHECK(hga::EncodeGeometry(*r) == bytes);
  (void)hga::DecodeStoreVersion(bytes);
}

void DecodeBlocks(const std::string& bytes) {
  for (size_t block_bytes : {size_t{64}, bytes.size() <= 16 ? size_t{1} : bytes.size() - 16}) {
    std::vector<uint8_t> out(block_bytes);
    (void)hga::DecodeBlock(bytes, block_bytes, out.data());
    (void)hga::DecodePart(bytes, block_bytes, out.data());
  }
  const size_t half = bytes.size() / 2;
  (void)hga::JoinPacked({absl::string_view(bytes).substr(0, half), absl::string_view(bytes).substr(half)});
}

void Import(const std::string& bytes) {
  hga::MemoryTier tier;
  std::istringstream in(bytes);
  auto file = hga::SessionFileReader::Open(&in);
  if (file.ok() && hga::ImportSession(&tier, "", &*file, nullptr).ok()) HGA_CHECK(tier.SessionNames().size() == 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  Decode(bytes);
  Decode(WithChecksum(bytes));
  DecodeBlocks(bytes);
  Import(bytes);
  return 0;
}
