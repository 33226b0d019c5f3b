#include "kv_store/tool/maintenance.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

constexpr size_t kProblemsNamed = 100;

class Inspection {
 public:
  Inspection(KvTier* tier, const KvGeometry& geometry) : tier_(tier), geometry_(geometry) {}

  absl::StatusOr<StoreReport> Run(bool read_blocks, const Progress& progress) {
    HGA_RETURN_IF_ERROR(tier_->ForEachChunk([this](Scanned<ChunkRecord> scanned) { AddChunk(std::move(scanned)); }));
    HGA_RETURN_IF_ERROR(tier_->ForEachSession([this](Scanned<SessionRecord> scanned) { AddSession(scanned); }));
    uint64_t done = 0;
    for (const auto& [hash, record] : chunks_) {
      const bool named = named_.contains(hash);
      report_.chunks_of_no_session += !named;
      if (record.checksums.empty()) {
        report_.chunks_to_compute += named;
      } else {
        ++report_.chunks;
        report_.blocks += geometry_.layers;
        report_.block_bytes += geometry_.layers * geometry_.block_bytes();
        if (read_blocks) ReadChunk(record);
      }
      if (progress) progress(++done, chunks_.size());
    }
    report_.disk_bytes = tier_->Stats().disk_bytes;
    return report_;
  }

 private:
  void Problem(const std::string& what) {
    if (report_.problem_count++ < kProblemsNamed) report_.problems.push_back(what);
  }

  void AddChunk(Scanned<ChunkRecord> scanned) {
    const auto hash = ChunkHash::FromBytes(scanned.key);
    if (!hash.ok()) return Problem("a chunk record has no chunk hash for its key");
    const std::string name = absl::StrCat("chunk ", hash->ToHex(), ": ");
    if (!scanned.record.ok()) return Problem(name + std::string(scanned.record.status().message()));
    const ChunkRecord& record = *scanned.record;
    if (record.hash != *hash || NextChunkHash(record.parent, record.token_ids) != *hash) {
      return Problem(name + "its record is of other token ids");
    }
    if (record.token_ids.size() != geometry_.chunk_tokens ||
        !(record.checksums.empty() || record.checksums.size() == geometry_.layers)) {
      return Problem(name + "its record is of another shape than the store");
    }
    chunks_[*hash] = *std::move(scanned.record);
  }

  void AddSession(const Scanned<SessionRecord>& scanned) {
    const std::string name = absl::StrCat("session ", scanned.key, ": ");
    if (!scanned.record.ok()) return Problem(name + std::string(scanned.record.status().message()));
    ++report_.sessions;
    ChunkHash previous = SeedHash(scanned.record->model, geometry_);
    for (size_t i = 0; i < scanned.record->chunks.size(); ++i) {
      const ChunkHash& hash = scanned.record->chunks[i];
      const auto chunk = chunks_.find(hash);
      if (chunk == chunks_.end() || chunk->second.parent != previous) {
        return Problem(absl::StrCat(name, "chunk ", i, " of ", scanned.record->chunks.size(), " (", hash.ToHex(),
                                    ") is ", chunk == chunks_.end() ? "missing" : "of another sequence"));
      }
      named_.insert(hash);
      report_.tokens += geometry_.chunk_tokens;
      previous = hash;
    }
    report_.tokens += scanned.record->tail_tokens.size();
  }

  void ReadChunk(const ChunkRecord& record) {
    data_.resize(geometry_.layers * geometry_.block_bytes());
    std::vector<BlockRead> reads(geometry_.layers);
    for (uint32_t layer = 0; layer < geometry_.layers; ++layer) {
      reads[layer].name = {record.hash, layer};
      reads[layer].out = &data_[layer * geometry_.block_bytes()];
    }
    tier_->ReadBlocks(absl::MakeSpan(reads));
    for (uint32_t layer = 0; layer < geometry_.layers; ++layer) {
      const std::string name = absl::StrCat("chunk ", record.hash.ToHex(), " layer ", layer, ": ");
      report_.unreadable += absl::IsUnavailable(reads[layer].status);
      if (!reads[layer].status.ok()) {
        Problem(name + std::string(reads[layer].status.message()));
      } else if (reads[layer].checksum != record.checksums[layer]) {
        Problem(name + "the block is another than the chunk's record says");
      }
    }
    const auto summary = tier_->ReadSummary(record.hash);
    report_.unreadable += absl::IsUnavailable(summary.status());
    if (!summary.ok()) {
      Problem(absl::StrCat("chunk ", record.hash.ToHex(), ": summary: ", std::string(summary.status().message())));
    }
  }

  KvTier* const tier_;
  const KvGeometry geometry_;
  StoreReport report_;
  absl::flat_hash_map<ChunkHash, ChunkRecord> chunks_;
  absl::flat_hash_set<ChunkHash> named_;  // by a manifest
  std::vector<uint8_t> data_;
};

}  // namespace

absl::StatusOr<StoreReport> InspectStore(KvTier* tier, bool read_blocks, const Progress& progress) {
  const auto geometry = tier->GetGeometry();
  if (absl::IsNotFound(geometry.status())) return StoreReport();  // nothing was ever written
  HGA_RETURN_IF_ERROR(geometry.status());
  return Inspection(tier, *geometry).Run(read_blocks, progress);
}

}  // namespace hga
