#include "kv_store/tool/session_file.h"

#include <algorithm>
#include <cstring>
#include <istream>
#include <ostream>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "kv_store/tier/record_codec.h"

namespace hga {
namespace {

constexpr char kMagic[] = "HGASESS1";
constexpr size_t kMagicBytes = 8;
constexpr uint64_t kMaxFrame = uint64_t{1} << 30;  // a block is smaller; longer is garbage
constexpr size_t kReadStep = 1 << 20;              // so that a length that lies costs no memory

void PutFrame(const std::string& bytes, std::ostream* out) {
  const uint64_t length = bytes.size();
  out->write(reinterpret_cast<const char*>(&length), sizeof(length));
  out->write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

absl::StatusOr<std::string> TakeFrame(std::istream* in) {
  uint64_t length = 0;
  if (!in->read(reinterpret_cast<char*>(&length), sizeof(length))) return absl::DataLossError("the file is cut off");
  if (length > kMaxFrame) return absl::DataLossError("the file is damaged: a part of it has an absurd length");
  std::string bytes;
  while (bytes.size() < length) {
    const size_t step = std::min<uint64_t>(kReadStep, length - bytes.size());
    const size_t had = bytes.size();
    bytes.resize(had + step);
    if (!in->read(&bytes[had], static_cast<std::streamsize>(step))) return absl::DataLossError("the file is cut off");
  }
  return bytes;
}

absl::StatusOr<SessionRecord> FindSession(KvTier* tier, const std::string& name) {
  absl::StatusOr<SessionRecord> found = absl::NotFoundError(absl::StrCat("no session '", name, "'"));
  HGA_RETURN_IF_ERROR(tier->ForEachSession([&](Scanned<SessionRecord> scanned) {
    if (scanned.key == name) found = std::move(scanned.record);
  }));
  return found;
}

}  // namespace

absl::Status ExportSession(KvTier* tier, const std::string& name, std::ostream* out) {
  HGA_ASSIGN_OR_RETURN(const KvGeometry geometry, tier->GetGeometry());
  HGA_ASSIGN_OR_RETURN(const SessionRecord session, FindSession(tier, name));
  absl::flat_hash_map<ChunkHash, ChunkRecord> records;
  for (const ChunkHash& hash : session.chunks) records[hash];
  HGA_RETURN_IF_ERROR(tier->ForEachChunk([&](Scanned<ChunkRecord> scanned) {
    if (!scanned.record.ok()) return;
    const auto wanted = records.find(scanned.record->hash);
    if (wanted != records.end()) wanted->second = *std::move(scanned.record);
  }));
  out->write(kMagic, kMagicBytes);
  PutFrame(EncodeGeometry(geometry), out);
  PutFrame(EncodeSession(session), out);
  std::vector<uint8_t> data(geometry.block_bytes());
  for (const ChunkHash& hash : session.chunks) {
    const ChunkRecord& record = records[hash];
    if (record.token_ids.empty()) return absl::DataLossError(absl::StrCat("chunk ", hash.ToHex(), " is missing"));
    PutFrame(EncodeChunk(record), out);
    if (record.checksums.empty()) continue;
    HGA_ASSIGN_OR_RETURN(const SummaryRecord summary, tier->ReadSummary(hash));
    PutFrame(EncodeSummary(summary), out);
    for (uint32_t layer = 0; layer < record.checksums.size(); ++layer) {
      BlockRead read;
      read.name = {hash, layer};
      read.out = data.data();
      tier->ReadBlocks(absl::MakeSpan(&read, 1));
      HGA_RETURN_IF_ERROR(read.status);
      PutFrame(EncodeBlockHeader(read.checksum) + std::string(data.begin(), data.end()), out);
    }
  }
  if (!out->flush()) return absl::UnavailableError("the file cannot be written");
  return absl::OkStatus();
}

SessionFileReader::SessionFileReader(std::istream* in, const KvGeometry& geometry, SessionRecord session)
    : in_(in), geometry_(geometry), session_(std::move(session)), parent_(SeedHash(session_.model, geometry)) {}

absl::StatusOr<SessionFileReader> SessionFileReader::Open(std::istream* in) {
  char magic[kMagicBytes] = {};
  if (!in->read(magic, kMagicBytes) || std::memcmp(magic, kMagic, kMagicBytes) != 0) {
    return absl::InvalidArgumentError("this is no session file of version 1");
  }
  HGA_ASSIGN_OR_RETURN(std::string bytes, TakeFrame(in));
  HGA_ASSIGN_OR_RETURN(const KvGeometry geometry, DecodeGeometry(bytes));
  HGA_ASSIGN_OR_RETURN(bytes, TakeFrame(in));
  HGA_ASSIGN_OR_RETURN(SessionRecord session, DecodeSession(bytes));
  return SessionFileReader(in, geometry, std::move(session));
}

absl::StatusOr<SessionFileChunk> SessionFileReader::Next() {
  if (next_ == session_.chunks.size()) return absl::OutOfRangeError("the session has no more chunks");
  const ChunkHash& expected = session_.chunks[next_];
  SessionFileChunk chunk;
  HGA_ASSIGN_OR_RETURN(std::string bytes, TakeFrame(in_));
  HGA_ASSIGN_OR_RETURN(chunk.record, DecodeChunk(bytes));
  const ChunkRecord& record = chunk.record;
  if (record.hash != expected || record.parent != parent_ || record.token_ids.size() != geometry_.chunk_tokens ||
      NextChunkHash(parent_, record.token_ids) != expected) {
    return absl::InvalidArgumentError("a chunk of the file does not follow from its token ids");
  }
  ++next_;
  parent_ = expected;
  if (record.checksums.empty()) return chunk;
  if (record.checksums.size() != geometry_.layers) {
    return absl::InvalidArgumentError("a chunk has another number of layers");
  }
  HGA_ASSIGN_OR_RETURN(bytes, TakeFrame(in_));
  HGA_ASSIGN_OR_RETURN(chunk.summary, DecodeSummary(bytes));
  for (const uint64_t expected_checksum : record.checksums) {
    HGA_ASSIGN_OR_RETURN(const std::string block, TakeFrame(in_));
    if (block.size() != kBlockHeaderBytes + geometry_.block_bytes()) {
      return absl::DataLossError("a block has another size");
    }
    chunk.blocks.emplace_back(geometry_.block_bytes());
    HGA_ASSIGN_OR_RETURN(const uint64_t checksum,
                         DecodeBlock(block, geometry_.block_bytes(), chunk.blocks.back().data()));
    const bool plain = block.compare(0, kBlockHeaderBytes, EncodeBlockHeader(checksum)) == 0;
    if (!plain || checksum != expected_checksum) {
      return absl::DataLossError("a block is another than its chunk's record says");
    }
  }
  return chunk;
}

absl::Status SessionFileReader::CheckEnd() {
  if (in_->peek() == std::istream::traits_type::eof()) return absl::OkStatus();
  return absl::InvalidArgumentError("the file goes on behind its session");
}

}  // namespace hga
