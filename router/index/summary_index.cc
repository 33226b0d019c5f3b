#include "router/index/summary_index.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace hga {

SummaryIndex::SummaryIndex(const SummaryIndexOptions& options, SummarySource source)
    : options_(options), source_(std::move(source)), cache_(options.cache_bytes) {}

absl::StatusOr<OpenedSequence> SummaryIndex::Open(uint64_t worker_id, uint64_t sequence_id, const KvGeometry& geometry,
                                                  const SummaryMethod* method, absl::Span<const ChunkHash> chunks) {
  const Key key(worker_id, sequence_id);
  {
    std::lock_guard<std::mutex> lock(mu_);
    sequences_.erase(key);
    if (sequences_.size() >= options_.max_sequences) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the router holds ", sequences_.size(), " sequences already; see --max_sequences"));
    }
  }
  const auto sequence = std::make_shared<SequenceIndex>(geometry, method);
  OpenedSequence opened;
  while (sequence->chunks() < chunks.size()) {
    opened.from_memory_chunks += FromMemory(sequence.get(), chunks);
    if (!FromSource(sequence.get(), chunks)) break;
  }
  opened.indexed_chunks = sequence->chunks();
  std::lock_guard<std::mutex> lock(mu_);
  sequences_[key] = sequence;
  return opened;
}

uint32_t SummaryIndex::FromMemory(SequenceIndex* sequence, absl::Span<const ChunkHash> chunks) {
  const uint32_t before = sequence->chunks();
  for (uint32_t i = before; i < chunks.size(); ++i) {
    const SummaryCache::Data data = cache_.Get(chunks[i], &sequence->method());
    if (data == nullptr || !sequence->Append(i, chunks[i], *data).ok()) break;
  }
  return sequence->chunks() - before;
}

// Asks for the chunks up to the next one that memory has. False: the source does not have them all.
bool SummaryIndex::FromSource(SequenceIndex* sequence, absl::Span<const ChunkHash> chunks) {
  const uint32_t before = sequence->chunks();
  if (!source_ || before >= chunks.size()) return false;
  const SummaryMethod* method = &sequence->method();
  uint32_t end = before + 1;
  while (end < chunks.size() && cache_.Get(chunks[end], method) == nullptr) ++end;
  absl::Status bad;
  const absl::Status status = source_(
      chunks.subspan(before, end - before),
      [&](const ChunkHash& chunk, const std::string& its_method, const std::string& data) {
        const uint32_t next = sequence->chunks();
        if (!bad.ok()) return;
        if (next >= end || its_method != method->name || chunk != chunks[next]) {
          bad = absl::NotFoundError(absl::StrCat("a summary by '", its_method, "' of ", chunk.ToHex(), ", wanted by '",
                                                 method->name, "' of ", chunks[std::min(next, end - 1)].ToHex()));
          return;
        }
        bad = sequence->Append(next, chunk, data);
        if (bad.ok()) cache_.Put(chunk, method, data);
      });
  for (const absl::Status& problem : {status, bad}) {
    if (!problem.ok()) LogWarning("summaries are missing in the store", {{"error", problem.message()}});
  }
  rebuilt_chunks_ += sequence->chunks() - before;
  return sequence->chunks() == end;
}

absl::StatusOr<uint32_t> SummaryIndex::Append(uint64_t worker_id, uint64_t sequence_id, uint32_t chunk_index,
                                              const ChunkHash& chunk, const std::string& data) {
  const SequencePtr sequence = Find(worker_id, sequence_id);
  if (sequence == nullptr) return absl::NotFoundError(absl::StrCat("sequence ", sequence_id, " is not open"));
  HGA_RETURN_IF_ERROR(sequence->Append(chunk_index, chunk, data));
  cache_.Put(chunk, &sequence->method(), data);
  return sequence->chunks();
}

void SummaryIndex::Close(uint64_t worker_id, uint64_t sequence_id) {
  std::lock_guard<std::mutex> lock(mu_);
  sequences_.erase(Key(worker_id, sequence_id));
}

void SummaryIndex::CloseWorker(uint64_t worker_id) {
  std::lock_guard<std::mutex> lock(mu_);
  absl::erase_if(sequences_, [&](const auto& entry) { return entry.first.first == worker_id; });
}

SummaryIndex::SequencePtr SummaryIndex::Find(uint64_t worker_id, uint64_t sequence_id) const {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = sequences_.find(Key(worker_id, sequence_id));
  return found == sequences_.end() ? nullptr : found->second;
}

SummaryIndex::Totals SummaryIndex::totals() const {
  Totals totals;
  totals.bytes = cache_.bytes();
  totals.rebuilt_chunks = rebuilt_chunks_.load();
  std::lock_guard<std::mutex> lock(mu_);
  totals.sequences = sequences_.size();
  for (const auto& [key, sequence] : sequences_) {
    totals.chunks += sequence->chunks();
    totals.bytes += sequence->bytes();
  }
  return totals;
}

}  // namespace hga
