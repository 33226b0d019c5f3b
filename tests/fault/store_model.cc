#include "tests/fault/store_model.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/kv/kv_rows.h"
#include "kv_store/tier/small_geometry.h"

namespace hga {
namespace {

constexpr int kDepth = 5;

}  // namespace

StoreModel::StoreModel() : geometry_(SmallGeometry()), fingerprint_(HashBytes("model")) {}

std::vector<ChunkHash> StoreModel::RandomPath(std::mt19937_64* random) {
  std::vector<ChunkHash> path;
  ChunkHash at = SeedHash(fingerprint_, geometry_);
  for (int depth = 1 + static_cast<int>((*random)() % kDepth); depth > 0; --depth) {
    // Two sequences in three go the same way: shared prefixes are the rule.
    const std::vector<uint32_t> tokens(geometry_.chunk_tokens, (*random)() % 3 == 0 ? 2 : 1);
    const ChunkHash next = NextChunkHash(at, tokens);
    tree_[next] = {at, tokens};
    path.push_back(next);
    at = next;
  }
  return path;
}

std::vector<uint8_t> StoreModel::Bytes(const ChunkHash& chunk, uint32_t layer) const {
  std::vector<uint8_t> bytes(geometry_.block_bytes());
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(chunk.bytes[i % chunk.bytes.size()] * 31 + i * 7 + layer * 101);
  }
  if (chunk.bytes[0] % 4 == 0) return bytes;  // as from a worker that does not round
  bf16* const values = reinterpret_cast<bf16*>(bytes.data());
  for (size_t row = 0; row < geometry_.block_elements(); row += geometry_.head_dim)
    RoundKvRow(KvDtype::kInt8, values + row, geometry_.head_dim);
  return bytes;
}

bool StoreModel::HasHeads(const std::vector<uint8_t>& block, const ChunkHash& chunk, uint32_t layer,
                          uint64_t heads) const {
  const std::vector<uint8_t> bytes = Bytes(chunk, layer);
  const size_t part = bytes.size() / geometry_.kv_heads;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if ((heads >> (i / part) & 1) != 0 && block[i] != bytes[i]) return false;
  }
  return true;
}

// --- Chunks ---

void StoreModel::Committed(const std::string& session, const ChunkHash& hash, bool duplicate) {
  sessions_.at(session).pins.insert(hash);
  if (duplicate) return;
  Chunk& chunk = chunks_[hash] = Chunk();
  chunk.must = true;
  ++commit_versions_[hash];
}

uint64_t StoreModel::CommitVersion(const ChunkHash& hash) const {
  const auto found = commit_versions_.find(hash);
  return found == commit_versions_.end() ? 0 : found->second;
}

void StoreModel::Durable(const ChunkHash& hash, uint64_t version) {
  const auto chunk = chunks_.find(hash);
  if (chunk != chunks_.end() && CommitVersion(hash) == version) chunk->second.durable = true;
}

void StoreModel::Lost(const ChunkHash& hash) {
  const auto chunk = chunks_.find(hash);
  if (chunk == chunks_.end()) return;
  chunk->second = Chunk();
  chunk->second.may = false;
}

bool StoreModel::MayBeGivenUp(const ChunkHash& hash) const {
  const Session* only = nullptr;
  for (const auto& [id, session] : sessions_) {
    const bool has = std::count(session.chunks.begin(), session.chunks.end(), hash) > 0 || session.pins.count(hash) > 0;
    if (!has) continue;
    if (only != nullptr) return false;
    only = &session;
  }
  return only != nullptr && !only->open && !only->pinned;
}

std::vector<ChunkHash> StoreModel::NextToGiveUp() const {
  std::vector<ChunkHash> next;
  for (const auto& [id, session] : sessions_) {
    if (!session.chunks.empty() && MayBeGivenUp(session.chunks.back())) next.push_back(session.chunks.back());
  }
  return next;
}

size_t StoreModel::PinnedChunks() const {
  std::set<ChunkHash> pinned;
  for (const auto& [id, session] : sessions_) {
    if (session.pinned) pinned.insert(session.chunks.begin(), session.chunks.end());
  }
  return pinned.size();
}

void StoreModel::Scribbled(const ChunkHash& hash) {
  const auto chunk = chunks_.find(hash);
  if (chunk != chunks_.end()) chunk->second.scribbled = true;
}

bool StoreModel::IsScribbled(const ChunkHash& hash) const {
  const auto chunk = chunks_.find(hash);
  return chunk != chunks_.end() && chunk->second.scribbled;
}

bool StoreModel::MayBeDamaged(const ChunkHash& hash) const {
  const auto chunk = chunks_.find(hash);
  return damaged_on_disk_.count(hash) > 0 ||
         (chunk != chunks_.end() && (chunk->second.scribbled || chunk->second.suspect));
}

bool StoreModel::MayBeWhole(const ChunkHash& hash) const {
  const auto chunk = chunks_.find(hash);
  return chunk != chunks_.end() && chunk->second.may;
}

bool StoreModel::MustBeWhole(const ChunkHash& hash) const {
  const auto chunk = chunks_.find(hash);
  return chunk != chunks_.end() && chunk->second.must && !MayBeDamaged(hash);
}

std::pair<size_t, size_t> StoreModel::MatchBounds(const std::vector<ChunkHash>& path) const {
  size_t least = 0, most = 0;
  while (least < path.size() && MustBeWhole(path[least])) ++least;
  while (most < path.size() && MayBeWhole(path[most])) ++most;
  return {least, most};
}

std::set<ChunkHash> StoreModel::Referred() const {
  std::set<ChunkHash> referred;
  for (const auto& [id, session] : sessions_) {
    referred.insert(session.chunks.begin(), session.chunks.end());
    referred.insert(session.pins.begin(), session.pins.end());
  }
  return referred;
}

void StoreModel::Sweep() {
  const std::set<ChunkHash> referred = Referred();
  for (auto at = chunks_.begin(); at != chunks_.end();) {
    at = referred.count(at->first) ? std::next(at) : chunks_.erase(at);
  }
}

// --- Sessions ---

void StoreModel::Note(const std::string& name) {
  History& history = history_[name];
  history.states[history.states.rbegin()->first + 1] = SessionTokens(name);
}

void StoreModel::Opened(const std::string& id, bool named, uint64_t epoch, const std::vector<ChunkHash>& matched) {
  Session& session = sessions_[id];
  session.named = named;
  session.open = true;
  session.epoch = epoch;
  session.pins.insert(matched.begin(), matched.end());
}

void StoreModel::Updated(const std::string& id, const std::vector<ChunkHash>& chunks,
                         const std::vector<uint32_t>& tail) {
  Session& session = sessions_.at(id);
  session.chunks = chunks;
  session.tail = tail;
  Sweep();
  if (session.named) Note(id);
}

void StoreModel::Closed(const std::string& id) {
  Session& session = sessions_.at(id);
  session.open = false;
  session.pins.clear();
  if (!session.named || !HasTokens(id)) sessions_.erase(id);
  Sweep();
}

void StoreModel::Deleted(const std::string& name) {
  sessions_.erase(name);
  Sweep();
  Note(name);
}

void StoreModel::Forked(const std::string& from, const std::string& to) {
  Session fork = sessions_.at(from);
  fork.open = fork.pinned = false;
  fork.pins.clear();
  sessions_[to] = std::move(fork);
  Note(to);
}

bool StoreModel::IsOpen(const std::string& id) const {
  const auto found = sessions_.find(id);
  return found != sessions_.end() && found->second.open;
}

std::vector<uint32_t> StoreModel::SessionTokens(const std::string& id) const {
  std::vector<uint32_t> tokens;
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return tokens;
  for (const ChunkHash& chunk : found->second.chunks) {
    tokens.insert(tokens.end(), Tokens(chunk).begin(), Tokens(chunk).end());
  }
  tokens.insert(tokens.end(), found->second.tail.begin(), found->second.tail.end());
  return tokens;
}

std::set<std::string> StoreModel::SavedNames() const {
  std::set<std::string> names;
  for (const auto& [id, session] : sessions_) {
    if (session.named && HasTokens(id)) names.insert(id);
  }
  return names;
}

uint64_t StoreModel::SessionVersion(const std::string& name) const {
  const auto found = history_.find(name);
  return found == history_.end() ? 0 : found->second.states.rbegin()->first;
}

void StoreModel::Saved(const std::string& name, uint64_t version) {
  History& history = history_[name];
  history.saved = std::max(history.saved, version);
}

// --- After a crash ---

std::string StoreModel::Recover(const std::string& name, const std::vector<uint32_t>* tokens) {
  const std::vector<uint32_t> found = tokens == nullptr ? std::vector<uint32_t>() : *tokens;
  History& history = history_[name];
  const bool known = std::any_of(history.states.lower_bound(history.saved), history.states.end(),
                                 [&](const auto& state) { return state.second == found; });
  if (!known) {
    return absl::StrCat("session ", name, " came back with ", found.size(), " tokens, not as it was at change ",
                        history.saved, " (", history.states[history.saved].size(), " tokens) or later");
  }
  const uint64_t last = history.states.rbegin()->first;
  history.states = {{last, found}};
  history.saved = last;
  if (found.empty()) return "";
  Session session;
  session.named = true;
  session.chunks = ChunkHashes(fingerprint_, geometry_, found);
  session.tail.assign(found.begin() + session.chunks.size() * geometry_.chunk_tokens, found.end());
  recovered_[name] = std::move(session);
  return "";
}

void StoreModel::FinishRecovery() {
  sessions_ = std::move(recovered_);
  recovered_.clear();
  Sweep();
  for (const ChunkHash& hash : Referred()) {
    Chunk& chunk = chunks_[hash];
    chunk.must = chunk.must && chunk.durable;
    chunk.suspect = chunk.suspect || chunk.scribbled;
    chunk.scribbled = false;
    chunk.may = true;
  }
}

}  // namespace hga
