#include "common/kv/ids.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "xxhash.h"

namespace hga {
namespace {

// Part of every seed: a change of the block layout or of the hash's recipe must change every name.
const char* LayoutVersion(KvDtype dtype) { return dtype == KvDtype::kBf16 ? "hga-kv-1-bf16" : "hga-kv-1-int8"; }

}  // namespace

std::string Hash128::ToHex() const {
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

absl::StatusOr<Hash128> Hash128::FromBytes(absl::string_view raw) {
  Hash128 hash;
  if (raw.size() != hash.bytes.size()) {
    return absl::InvalidArgumentError(absl::StrCat("a hash has 16 bytes, not ", raw.size()));
  }
  std::memcpy(hash.bytes.data(), raw.data(), raw.size());
  return hash;
}

Hash128 HashBytes(absl::string_view data) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(data.data(), data.size()));
  Hash128 hash;
  std::memcpy(hash.bytes.data(), canonical.digest, hash.bytes.size());
  return hash;
}

uint64_t BlockChecksum(const void* data, size_t bytes) { return XXH3_64bits(data, bytes); }

ChunkHash SeedHash(const ModelFingerprint& model, const KvGeometry& g) {
  return HashBytes(absl::StrCat(LayoutVersion(g.dtype), ":", model.ToHex(), ":", g.layers, ":", g.query_heads, ":",
                                g.kv_heads, ":", g.head_dim, ":", g.chunk_tokens, ":", g.group_tokens));
}

ChunkHash NextChunkHash(const ChunkHash& previous, absl::Span<const uint32_t> token_ids) {
  std::string data = previous.ToBytes();
  for (uint32_t id : token_ids) {
    for (int shift = 0; shift < 32; shift += 8) data.push_back(static_cast<char>(id >> shift));
  }
  return HashBytes(data);
}

std::vector<ChunkHash> ChunkHashes(const ModelFingerprint& model, const KvGeometry& geometry,
                                   absl::Span<const uint32_t> tokens) {
  std::vector<ChunkHash> hashes;
  ChunkHash previous = SeedHash(model, geometry);
  for (size_t i = 0; i + geometry.chunk_tokens <= tokens.size(); i += geometry.chunk_tokens) {
    previous = NextChunkHash(previous, tokens.subspan(i, geometry.chunk_tokens));
    hashes.push_back(previous);
  }
  return hashes;
}

absl::Status ValidateSessionName(absl::string_view name) {
  constexpr size_t kMaxName = 128;
  if (name.empty() || name.size() > kMaxName) {
    return absl::InvalidArgumentError(absl::StrCat("session name: 1 to 128 characters, not ", name.size()));
  }
  const bool clean = std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
  if (!clean || name[0] == '.') {
    return absl::InvalidArgumentError(
        "session name: only letters, digits, '.', '_' and '-', and not starting with '.'");
  }
  return absl::OkStatus();
}

}  // namespace hga
