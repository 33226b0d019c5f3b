// Sessions to files and back.
#include <algorithm>
#include <cstring>
#include <istream>
#include <memory>
#include <ostream>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "kv_store/tier/record_codec.h"
#include "kv_store/tool/maintenance.h"

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

template <typename Record>
absl::StatusOr<Record> FindRecord(absl::Status (KvTier::*scan)(absl::FunctionRef<void(Scanned<Record>)>), KvTier* tier,
                                  const std::string& key, const std::string& what) {
  absl::StatusOr<Record> found = absl::NotFoundError(absl::StrCat("no ", what));
  HGA_RETURN_IF_ERROR((tier->*scan)([&](Scanned<Record> scanned) {
    if (scanned.key == key) found = std::move(scanned.record);
  }));
  return found;
}

// One chunk of a file on its way into the store.
class ChunkImport {
 public:
  ChunkImport(KvTier* tier, const KvGeometry& geometry) : tier_(tier), geometry_(geometry) {}

  absl::Status Take(const ChunkHash& expected, const ChunkHash& parent, std::istream* in) {
    HGA_ASSIGN_OR_RETURN(const std::string bytes, TakeFrame(in));
    HGA_ASSIGN_OR_RETURN(ChunkRecord record, DecodeChunk(bytes));
    if (record.hash != expected || record.parent != parent || record.token_ids.size() != geometry_.chunk_tokens ||
        NextChunkHash(parent, record.token_ids) != expected) {
      return absl::InvalidArgumentError("a chunk of the file does not follow from its token ids");
    }
    WriteStep step;
    if (record.checksums.empty()) {
      step.put_tokens.push_back(std::move(record));
      return tier_->Write(step);
    }
    if (record.checksums.size() != geometry_.layers) {
      return absl::InvalidArgumentError("a chunk has another number of layers");
    }
    HGA_ASSIGN_OR_RETURN(const std::string summary_bytes, TakeFrame(in));
    HGA_ASSIGN_OR_RETURN(SummaryRecord summary, DecodeSummary(summary_bytes));
    std::vector<std::vector<uint8_t>> blocks(geometry_.layers);
    ChunkWrite write;
    for (uint32_t layer = 0; layer < geometry_.layers; ++layer) {
      HGA_ASSIGN_OR_RETURN(const std::string block, TakeFrame(in));
      if (block.size() != kBlockHeaderBytes + geometry_.block_bytes()) {
        return absl::DataLossError("a block has another size");
      }
      blocks[layer].resize(geometry_.block_bytes());
      HGA_ASSIGN_OR_RETURN(const uint64_t checksum, DecodeBlock(block, geometry_.block_bytes(), blocks[layer].data()));
      const bool plain = block.compare(0, kBlockHeaderBytes, EncodeBlockHeader(checksum)) == 0;
      if (!plain || checksum != record.checksums[layer]) {
        return absl::DataLossError("a block is another than its chunk's record says");
      }
      write.blocks.push_back(blocks[layer].data());
    }
    write.record = std::make_shared<const ChunkRecord>(std::move(record));
    write.summary = std::make_shared<const SummaryRecord>(std::move(summary));
    step.put_chunks.push_back(std::move(write));
    return tier_->Write(step);
  }

 private:
  KvTier* const tier_;
  const KvGeometry geometry_;
};

absl::StatusOr<KvGeometry> TakeGeometry(KvTier* tier, std::istream* in) {
  HGA_ASSIGN_OR_RETURN(const std::string bytes, TakeFrame(in));
  HGA_ASSIGN_OR_RETURN(const KvGeometry geometry, DecodeGeometry(bytes));
  const auto own = tier->GetGeometry();
  if (absl::IsNotFound(own.status())) {
    HGA_RETURN_IF_ERROR(tier->SetGeometry(geometry));
    return geometry;
  }
  HGA_RETURN_IF_ERROR(own.status());
  if (*own == geometry) return geometry;
  return absl::FailedPreconditionError("the store holds K/V of another shape than the file");
}

}  // namespace

absl::Status ExportSession(KvTier* tier, const std::string& name, std::ostream* out) {
  HGA_ASSIGN_OR_RETURN(const KvGeometry geometry, tier->GetGeometry());
  HGA_ASSIGN_OR_RETURN(const SessionRecord session, FindRecord<SessionRecord>(&KvTier::ForEachSession, tier, name,
                                                                             absl::StrCat("session '", name, "'")));
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

absl::StatusOr<std::string> ImportSession(KvTier* tier, const std::string& as, std::istream* in) {
  char magic[kMagicBytes] = {};
  if (!in->read(magic, kMagicBytes) || std::memcmp(magic, kMagic, kMagicBytes) != 0) {
    return absl::InvalidArgumentError("this is no session file of version 1");
  }
  HGA_ASSIGN_OR_RETURN(const KvGeometry geometry, TakeGeometry(tier, in));
  HGA_ASSIGN_OR_RETURN(const std::string bytes, TakeFrame(in));
  HGA_ASSIGN_OR_RETURN(SessionRecord session, DecodeSession(bytes));
  if (!as.empty()) session.name = as;
  HGA_RETURN_IF_ERROR(ValidateSessionName(session.name));
  const auto there = FindRecord<SessionRecord>(&KvTier::ForEachSession, tier, session.name, "session");
  if (!absl::IsNotFound(there.status())) {
    return absl::AlreadyExistsError(absl::StrCat("there is a session '", session.name, "'; give another name"));
  }
  ChunkImport import(tier, geometry);
  ChunkHash parent = SeedHash(session.model, geometry);
  for (const ChunkHash& hash : session.chunks) {
    HGA_RETURN_IF_ERROR(import.Take(hash, parent, in));
    parent = hash;
  }
  if (in->peek() != std::istream::traits_type::eof()) {
    return absl::InvalidArgumentError("the file goes on behind its session");
  }
  WriteStep last;
  last.put_sessions.push_back(session);
  HGA_RETURN_IF_ERROR(tier->Write(last));
  return session.name;
}

}  // namespace hga
