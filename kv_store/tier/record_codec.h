// Bytes of the records on disk. Each starts with a version byte and ends with an XXH3 checksum of what precedes.
#ifndef HGA_KV_STORE_TIER_RECORD_CODEC_H_
#define HGA_KV_STORE_TIER_RECORD_CODEC_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/kv/kv_dtype.h"
#include "kv_store/tier/kv_tier.h"

namespace hga {

std::string EncodeChunk(const ChunkRecord& record);
std::string EncodeSummary(const SummaryRecord& record);
std::string EncodeSession(const SessionRecord& record);
std::string EncodeGeometry(const KvGeometry& geometry);
std::string EncodeChunkList(const std::vector<ChunkHash>& chunks);

// Of the whole store: which records there are and what they mean. Another version's store is refused, never
// changed.
inline constexpr uint32_t kStoreVersion = 3;
std::string EncodeStoreVersion(uint32_t version);
absl::StatusOr<uint32_t> DecodeStoreVersion(absl::string_view bytes);

// DATA_LOSS on a bad checksum or lengths that do not add up; FAILED_PRECONDITION on a version that is not known
// here.
absl::StatusOr<ChunkRecord> DecodeChunk(absl::string_view bytes);
absl::StatusOr<SummaryRecord> DecodeSummary(absl::string_view bytes);
absl::StatusOr<SessionRecord> DecodeSession(absl::string_view bytes);
absl::StatusOr<KvGeometry> DecodeGeometry(absl::string_view bytes);
absl::StatusOr<std::vector<ChunkHash>> DecodeChunkList(absl::string_view bytes);

// The 16 bytes before a block's data: version, dtype, head_dim (2 bytes), 4 zeros, checksum of the unpacked block.
// Version 1: the block as it is, dtype and head_dim zero. Version 2: packed row by row (common/kv/kv_dtype.h).
inline constexpr size_t kBlockHeaderBytes = 16;
std::string EncodeBlockHeader(uint64_t checksum);
std::string EncodePackedHeader(uint64_t checksum, KvDtype dtype, uint32_t head_dim);
// Appends the packed block. False, with `packed` left as it was: its values are not all of that type.
bool PackBlock(KvDtype dtype, uint32_t head_dim, const uint8_t* block, size_t block_bytes, std::string* packed);
bool IsPackedBlock(absl::string_view value);
// Checks `value` (header and data), copies the data out and returns its checksum. DATA_LOSS says what is wrong.
absl::StatusOr<uint64_t> DecodeBlock(absl::string_view value, size_t block_bytes, uint8_t* out);

// The record on disk of what one KV head has of a block: a block's header with the checksum of this part, the block's
// own checksum (8 bytes), data.
std::string PartHeader(absl::string_view block_header, uint64_t part_checksum);
// Copies the data out without looking at it: which of the two checksums is right depends on what else was read.
// DATA_LOSS says what is wrong.
struct PartChecksums {
  uint64_t part = 0, block = 0;
};
absl::StatusOr<PartChecksums> DecodePart(absl::string_view value, size_t part_bytes, uint8_t* out);
// The packed block that such records are the parts of, in order. Empty: they are not all packed, and alike.
std::string JoinPacked(absl::Span<const absl::string_view> parts);

// Key of a part: chunk hash, layer (4 bytes), KV head (2), big-endian.
std::string PartKey(const BlockName& name, uint32_t kv_head);

}  // namespace hga

#endif  // HGA_KV_STORE_TIER_RECORD_CODEC_H_
