// Names by content. A chunk hash chains over everything that determines a chunk's K/V, so equal prefixes share blocks
// across sessions, restarts and models never mix.
#ifndef HGA_COMMON_KV_IDS_H_
#define HGA_COMMON_KV_IDS_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/kv/geometry.h"

namespace hga {

// 128-bit XXH3, big-endian canonical form.
struct Hash128 {
  std::array<uint8_t, 16> bytes{};

  bool operator==(const Hash128& other) const { return bytes == other.bytes; }
  bool operator!=(const Hash128& other) const { return bytes != other.bytes; }
  bool operator<(const Hash128& other) const { return bytes < other.bytes; }
  template <typename H>
  friend H AbslHashValue(H h, const Hash128& x) { return H::combine(std::move(h), x.bytes); }

  std::string ToBytes() const { return std::string(bytes.begin(), bytes.end()); }
  std::string ToHex() const;
  // INVALID_ARGUMENT unless `raw` has 16 bytes.
  static absl::StatusOr<Hash128> FromBytes(absl::string_view raw);
};

using ChunkHash = Hash128;
using ModelFingerprint = Hash128;

Hash128 HashBytes(absl::string_view data);
// Checksum of a block, kept beside it wherever it lies.
uint64_t BlockChecksum(const void* data, size_t bytes);

// Hash before the first chunk: of the model, the K/V dtype and the block layout.
ChunkHash SeedHash(const ModelFingerprint& model, const KvGeometry& geometry);
ChunkHash NextChunkHash(const ChunkHash& previous, absl::Span<const uint32_t> token_ids);
// Hashes of all complete chunks of `tokens`, in order.
std::vector<ChunkHash> ChunkHashes(const ModelFingerprint& model, const KvGeometry& geometry,
                                   absl::Span<const uint32_t> tokens);

struct BlockName {
  ChunkHash chunk;
  uint32_t layer = 0;
  bool operator==(const BlockName& other) const { return chunk == other.chunk && layer == other.layer; }
  template <typename H>
  friend H AbslHashValue(H h, const BlockName& x) { return H::combine(std::move(h), x.chunk, x.layer); }
};

// 1 to 128 of [A-Za-z0-9._-], not starting with '.'; INVALID_ARGUMENT says which rule is broken.
absl::Status ValidateSessionName(absl::string_view name);

}  // namespace hga

#endif  // HGA_COMMON_KV_IDS_H_
