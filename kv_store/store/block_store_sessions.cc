// The session part of BlockStore.
#include <algorithm>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "kv_store/store/block_store.h"

namespace hga {
namespace {

// As long as a manifest that was never written: nothing that outlives the writer.
bool IsEmpty(const std::vector<ChunkHash>& chunks, const std::vector<uint32_t>& tail) {
  return chunks.empty() && tail.empty();
}

}  // namespace

int64_t BlockStore::Now() const {
  return options_.now_unix_s ? options_.now_unix_s() : static_cast<int64_t>(std::time(nullptr));
}

absl::StatusOr<BlockStore::Session*> BlockStore::FindOpenSession(ClientId client,
                                                                 const std::string& session_id,
                                                                 uint64_t epoch) {
  const auto found = sessions_.find(session_id);
  if (found == sessions_.end() || found->second.writer != client) {
    return absl::FailedPreconditionError(
        absl::StrCat("session '", session_id, "' is not open by this client; open it again"));
  }
  if (found->second.epoch != epoch) {
    return absl::FailedPreconditionError(absl::StrCat("session '", session_id, "': epoch ", epoch,
                                                      " is stale, it is ", found->second.epoch,
                                                      " now; open it again"));
  }
  return &found->second;
}

absl::StatusOr<OpenOutcome> BlockStore::OpenSession(ClientId id, const std::string& name,
                                                    const ModelFingerprint& model,
                                                    absl::Span<const ChunkHash> chunks) {
  HGA_ASSIGN_OR_RETURN(Client * client, FindClient(id));
  if (!name.empty()) HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  if (sessions_.size() >= kMaxSessions && !sessions_.contains(name)) {
    return absl::ResourceExhaustedError("too many sessions; delete some");
  }
  OpenOutcome outcome;
  outcome.session_id = name.empty() ? absl::StrCat("~", id, "-", next_nameless_++) : name;
  const auto found = sessions_.find(outcome.session_id);
  if (found != sessions_.end()) {
    if (found->second.writer != 0) {
      return absl::FailedPreconditionError(absl::StrCat("session '", name, "' is in use by another request"));
    }
    if (found->second.model != model) {
      return absl::FailedPreconditionError(absl::StrCat(
          "session '", name, "' was written by another model; delete it or choose another name"));
    }
  }
  Session& session = sessions_[outcome.session_id];
  session.named = !name.empty();
  session.pinned = session.pin_requested || options_.pinned_sessions.contains(name);
  session.model = model;
  session.writer = id;
  session.last_used_unix_s = Now();
  outcome.epoch = ++session.epoch;
  if (session.named && !IsEmpty(session.chunks, session.tail_tokens)) sessions_to_put_.insert(name);
  client->sessions.insert(outcome.session_id);
  bool in_ram = true;
  for (const ChunkHash& hash : chunks) {
    const Chunk* chunk = FindWhole(hash);
    if (chunk == nullptr) break;
    Pin(&session, hash);
    ++outcome.matched;
    in_ram = in_ram && chunk->InRam(geometry_.layers);
    outcome.matched_in_ram += in_ram;
  }
  return outcome;
}

absl::Status BlockStore::CheckManifest(const Session& session, absl::Span<const ChunkHash> chunks) const {
  ChunkHash previous = SeedHash(session.model, geometry_);
  for (size_t i = 0; i < chunks.size(); ++i) {
    const Chunk* chunk = FindWhole(chunks[i]);
    if (chunk == nullptr) {
      return absl::FailedPreconditionError(absl::StrCat("UpdateSession: chunk ", i, " (", chunks[i].ToHex(),
                                                        ") is not in the store; commit it first"));
    }
    if (chunk->parent != previous) {
      return absl::InvalidArgumentError(
          absl::StrCat("UpdateSession: chunk ", i, " does not follow its predecessor"));
    }
    previous = chunks[i];
  }
  return absl::OkStatus();
}

absl::Status BlockStore::UpdateSession(ClientId id, const std::string& session_id, uint64_t epoch,
                                       std::vector<ChunkHash> chunks, std::vector<uint32_t> tail_tokens) {
  HGA_RETURN_IF_ERROR(FindClient(id).status());
  HGA_ASSIGN_OR_RETURN(Session * session, FindOpenSession(id, session_id, epoch));
  if (tail_tokens.size() >= geometry_.chunk_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "UpdateSession: ", tail_tokens.size(), " tail tokens, must be fewer than ", geometry_.chunk_tokens));
  }
  HGA_RETURN_IF_ERROR(CheckManifest(*session, chunks));
  ReplaceManifest(session, std::move(chunks));
  session->tail_tokens = std::move(tail_tokens);
  session->last_used_unix_s = Now();
  if (session->named) Save(session_id);
  return absl::OkStatus();
}

void BlockStore::ReplaceManifest(Session* session, std::vector<ChunkHash> chunks) {
  const auto common =
      std::mismatch(chunks.begin(), chunks.end(), session->chunks.begin(), session->chunks.end());
  const size_t kept = common.first - chunks.begin();
  for (size_t i = kept; i < chunks.size(); ++i) {
    AddRef(chunks[i]);
    if (session->pinned) Pinned(chunks[i], 1);
  }
  const std::vector<ChunkHash> old = std::move(session->chunks);
  session->chunks = std::move(chunks);
  for (size_t i = kept; i < old.size(); ++i) {
    if (session->pinned) Pinned(old[i], -1);
    Unref(old[i]);
  }
}

void BlockStore::Pin(Session* session, const ChunkHash& chunk) {
  if (session->pins.insert(chunk).second) AddRef(chunk);
}

absl::Status BlockStore::CloseSession(ClientId id, const std::string& session_id, uint64_t epoch) {
  HGA_RETURN_IF_ERROR(FindClient(id).status());
  HGA_RETURN_IF_ERROR(FindOpenSession(id, session_id, epoch).status());
  Close(session_id);
  return absl::OkStatus();
}

void BlockStore::Close(const std::string& session_id) {
  Session& session = sessions_[session_id];
  if (const auto client = clients_.find(session.writer); client != clients_.end()) {
    client->second.sessions.erase(session_id);
  }
  session.writer = 0;
  const auto pins = std::move(session.pins);
  session.pins.clear();
  for (const ChunkHash& chunk : pins) Unref(chunk);
  if (!session.named || IsEmpty(session.chunks, session.tail_tokens)) EraseSession(session_id);
}

void BlockStore::EraseSession(const std::string& session_id) {
  ReplaceManifest(&sessions_[session_id], {});
  if (sessions_[session_id].named) {
    sessions_to_put_.erase(session_id);
    sessions_to_delete_.insert(session_id);
  }
  sessions_.erase(session_id);
}

absl::StatusOr<StoredSession> BlockStore::GetSession(const std::string& name) const {
  HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  const auto found = sessions_.find(name);
  if (found == sessions_.end() || IsEmpty(found->second.chunks, found->second.tail_tokens)) {
    return absl::NotFoundError(absl::StrCat("no session '", name, "'"));
  }
  const Session& session = found->second;
  StoredSession stored{session.model, {}, session.tail_tokens};
  stored.chunks.reserve(session.chunks.size());
  for (const ChunkHash& hash : session.chunks) {
    const Chunk* chunk = FindChunk(hash);
    stored.chunks.push_back({hash, chunk->ram == nullptr ? nullptr : chunk->ram->record});
  }
  return stored;
}

absl::StatusOr<StoredTokens> ReadTokens(const StoredSession& session, KvTier* tier) {
  std::vector<ChunkHash> on_disk;
  for (const StoredSession::Part& part : session.chunks) {
    if (part.record == nullptr) on_disk.push_back(part.hash);
  }
  const auto records = tier->ReadChunks(on_disk);
  StoredTokens stored{session.model, {}};
  size_t next = 0;
  for (const StoredSession::Part& part : session.chunks) {
    if (part.record == nullptr) HGA_RETURN_IF_ERROR(records[next].status());
    const ChunkRecord& record = part.record != nullptr ? *part.record : *records[next++];
    stored.token_ids.insert(stored.token_ids.end(), record.token_ids.begin(), record.token_ids.end());
  }
  stored.token_ids.insert(stored.token_ids.end(), session.tail_tokens.begin(), session.tail_tokens.end());
  return stored;
}

std::vector<SessionView> BlockStore::ListSessions() const {
  std::vector<SessionView> views;
  for (const auto& [name, session] : sessions_) {
    if (!session.named) continue;
    SessionView view;
    view.name = name;
    view.chunks = static_cast<uint32_t>(session.chunks.size());
    view.tokens = session.chunks.size() * geometry_.chunk_tokens + session.tail_tokens.size();
    for (const ChunkHash& hash : session.chunks) {
      const Chunk* chunk = FindChunk(hash);
      view.chunks_durable += chunk->durable;
      if (!chunk->lost) view.bytes += geometry_.block_bytes() * geometry_.layers;
    }
    view.last_used_unix_s = session.last_used_unix_s;
    view.open = session.writer != 0;
    view.pinned = session.pinned;
    views.push_back(std::move(view));
  }
  std::sort(views.begin(), views.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return views;
}

absl::Status BlockStore::DeleteSession(const std::string& name) {
  HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  const auto found = sessions_.find(name);
  if (found == sessions_.end()) return absl::NotFoundError(absl::StrCat("no session '", name, "'"));
  if (found->second.writer != 0) {
    return absl::FailedPreconditionError(absl::StrCat("session '", name, "' is in use by another request"));
  }
  EraseSession(name);
  return absl::OkStatus();
}

absl::Status BlockStore::ForkSession(const std::string& from, const std::string& to) {
  HGA_RETURN_IF_ERROR(ValidateSessionName(from));
  HGA_RETURN_IF_ERROR(ValidateSessionName(to));
  const auto source = sessions_.find(from);
  if (source == sessions_.end() || IsEmpty(source->second.chunks, source->second.tail_tokens)) {
    return absl::NotFoundError(absl::StrCat("no session '", from, "'"));
  }
  if (sessions_.contains(to)) return absl::AlreadyExistsError(absl::StrCat("there is a session '", to, "'"));
  if (sessions_.size() >= kMaxSessions) return absl::ResourceExhaustedError("too many sessions; delete some");
  Session fork;
  fork.named = true;
  fork.pinned = options_.pinned_sessions.contains(to);
  fork.model = source->second.model;
  fork.last_used_unix_s = Now();
  fork.tail_tokens = source->second.tail_tokens;
  ReplaceManifest(&fork, source->second.chunks);
  sessions_[to] = std::move(fork);
  Save(to);
  return absl::OkStatus();
}

absl::Status BlockStore::PinSession(const std::string& name, bool pinned) {
  HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  const auto found = sessions_.find(name);
  if (found == sessions_.end()) return absl::NotFoundError(absl::StrCat("no session '", name, "'"));
  const bool by_flag = options_.pinned_sessions.contains(name);
  if (!pinned && by_flag) {
    return absl::FailedPreconditionError(absl::StrCat("session '", name, "' is pinned by kv_store's --pin"));
  }
  Session& session = found->second;
  if (pinned && !session.pinned) HGA_RETURN_IF_ERROR(CheckPinQuota(name, session));
  if (session.pinned != pinned) {
    for (const ChunkHash& hash : session.chunks) Pinned(hash, pinned ? 1 : -1);
    session.pinned = pinned;
  }
  if (session.pin_requested == pinned) return absl::OkStatus();
  session.pin_requested = pinned;
  if (!IsEmpty(session.chunks, session.tail_tokens)) Save(name);  // else with its first manifest
  return absl::OkStatus();
}

// With the next write step. An empty session is none on disk.
void BlockStore::Save(const std::string& name) {
  const auto found = sessions_.find(name);
  const bool keep = found != sessions_.end() && !IsEmpty(found->second.chunks, found->second.tail_tokens);
  (keep ? sessions_to_put_ : sessions_to_delete_).insert(name);
  (keep ? sessions_to_delete_ : sessions_to_put_).erase(name);
}

void BlockStore::WhenSaved(std::function<void(absl::Status)> done) {
  if (!sessions_to_put_.empty() || !sessions_to_delete_.empty()) {
    on_saved_.push_back(std::move(done));
  } else if (write_under_way_) {
    on_saved_writing_.push_back(std::move(done));
  } else {
    done(absl::OkStatus());
  }
}

SessionRecord BlockStore::RecordOf(const std::string& name, const Session& session) const {
  return {name, session.model, session.epoch, session.last_used_unix_s, session.chunks, session.tail_tokens,
          session.pin_requested};
}

}  // namespace hga
