// The disk budget part of BlockStore.
#include <algorithm>
#include <tuple>
#include <utility>

#include "common/base/log.h"
#include "kv_store/store/block_store.h"

namespace hga {

bool BlockStore::KeepDiskBudget() {
  const uint64_t chunk_bytes = geometry_.block_bytes() * geometry_.layers;
  if (options_.disk_bytes == 0 || chunk_bytes == 0 || dirty_.empty()) return false;
  const uint64_t allowed = options_.disk_bytes / 10 * 7 / chunk_bytes;
  if (chunks_.size() - chunks_lost_ <= allowed) return false;
  std::vector<std::tuple<int64_t, std::string, Session*>> by_last_use;
  for (auto& [name, session] : sessions_) {
    if (session.named && !session.pinned && session.writer == 0 && !session.chunks.empty())
      by_last_use.emplace_back(session.last_used_unix_s, name, &session);
  }
  std::sort(by_last_use.begin(), by_last_use.end());
  uint64_t freed = 0;
  for (const auto& [last_used, name, session] : by_last_use) {
    if (chunks_.size() - chunks_lost_ <= allowed - allowed / 10) break;  // some at once, so that not each chunk asks again
    freed += GiveUpBlocks(name, session);
  }
  return freed > 0;
}

// The chunks that only this session has are its last ones: whoever has one has those before it as well. The manifest and
// the token ids stay, so the session's next request computes them again.
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
