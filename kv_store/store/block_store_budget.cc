// The disk budget part of BlockStore.
#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "kv_store/store/block_store.h"

namespace hga {

bool BlockStore::KeepDiskBudget() {
  const uint64_t chunk_bytes = geometry_.block_bytes() * geometry_.layers;
  if (options_.disk_bytes == 0 || chunk_bytes == 0 || dirty_.empty()) return false;
  const uint64_t allowed = DiskBudget() / 10 * 7 / chunk_bytes;
  if (chunks_.size() - chunks_lost_ <= allowed) return false;
  // Those pinned by requests last, and only while they have more than their quota: they may have grown since.
  std::vector<std::tuple<bool, int64_t, std::string, Session*>> by_last_use;
  for (auto& [name, session] : sessions_) {
    if (session.named && session.writer == 0 && !session.chunks.empty() && !options_.pinned_sessions.contains(name))
      by_last_use.emplace_back(session.pinned, session.last_used_unix_s, name, &session);
  }
  std::sort(by_last_use.begin(), by_last_use.end());
  uint64_t freed = 0;
  for (const auto& [pinned, last_used, name, session] : by_last_use) {
    // Some at once, so that not each chunk asks again.
    if (chunks_.size() - chunks_lost_ <= allowed - allowed / 10) break;
    if (pinned && chunks_pinned_ <= PinQuota()) break;
    if (pinned) {
      LogWarning("--pin_bytes: session ", name,
                 " is not pinned any more: pinned ones have grown past what they may have");
      HGA_CHECK(PinSession(name, false).ok());
    }
    freed += GiveUpBlocks(name, session);
  }
  return freed > 0;
}

uint64_t BlockStore::DiskBudget() const {
  const bool packed = options_.packs_bf16 && geometry_.dtype == KvDtype::kBf16;
  return packed ? options_.disk_bytes / 33 * 64 : options_.disk_bytes;
}

uint64_t BlockStore::PinQuota() const {
  const uint64_t chunk_bytes = geometry_.block_bytes() * geometry_.layers;
  const uint64_t bytes = options_.pin_bytes != 0 ? options_.pin_bytes : DiskBudget() / 20 * 7;
  return bytes == 0 || chunk_bytes == 0 ? ~uint64_t{0} : bytes / chunk_bytes;
}

absl::Status BlockStore::CheckPinQuota(const std::string& name, const Session& session) const {
  uint64_t chunks = chunks_pinned_;
  for (const ChunkHash& hash : session.chunks) chunks += FindChunk(hash)->pinned == 0;
  const uint64_t quota = PinQuota();
  if (chunks <= quota && (chunks < quota || !session.chunks.empty())) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot pin session '", name, "': pinned sessions would have ", chunks,
                   " chunks, --pin_bytes allows ", quota, "; unpin another first"));
}

// The chunks that only this session has are its last ones: whoever has one has those before it as well. The manifest
// and the token ids stay, so the session's next request computes them again.
uint64_t BlockStore::GiveUpBlocks(const std::string& name, Session* session) {
  uint64_t given_up = 0;
  for (auto hash = session->chunks.rbegin(); hash != session->chunks.rend(); ++hash) {
    Chunk* chunk = FindChunk(*hash);
    if (chunk->refs > 1) break;
    if (chunk->lost) continue;
    LoseBlocks(chunk);
    ++given_up;
  }
  if (given_up == 0) return 0;
  ++counters_.budget_evicted_sessions;
  counters_.budget_evicted_chunks += given_up;
  LogWarning("--disk_bytes: K/V of session ", name, " given up, ", given_up,
             " chunks; its token ids stay and are computed again when it is asked for");
  return given_up;
}

}  // namespace hga
