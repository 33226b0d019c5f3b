// Sessions of MemoryKvClient: who writes one, its manifest, names.
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "kv_store/client/memory_kv_state.h"

namespace hga {

absl::StatusOr<OpenedSession> MemoryKvClient::OpenSession(const std::string& name,
                                                          const ModelFingerprint& model,
                                                          absl::Span<const ChunkHash> chunks) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  if (!name.empty()) HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  const std::string id = name.empty() ? absl::StrCat("~", state_->next_nameless++) : name;
  if (const auto found = state_->sessions.find(id); found != state_->sessions.end()) {
    if (found->second.open) {
      return absl::FailedPreconditionError(absl::StrCat("session '", name, "' is in use by another request"));
    }
    if (found->second.model != model) {
      return absl::FailedPreconditionError(absl::StrCat("session '", name, "' was written by another model"));
    }
  }
  State::Session& session = state_->sessions[id];
  session.model = model;
  session.named = !name.empty();
  session.open = true;
  session.last_used = std::time(nullptr);
  OpenedSession opened{id, ++session.epoch, 0, 0};
  bool in_ram = true;
  for (const ChunkHash& hash : chunks) {
    const State::Chunk* chunk = state_->Whole(hash);
    if (chunk == nullptr) break;
    state_->Pin(&session, hash);
    ++opened.matched_chunks;
    for (uint32_t slot : chunk->slots) in_ram = in_ram && !state_->slots[slot].dropped;
    opened.matched_in_ram += in_ram;
  }
  return opened;
}

absl::Status MemoryKvClient::UpdateSession(const OpenedSession& opened, absl::Span<const ChunkHash> chunks,
                                           absl::Span<const uint32_t> tail_tokens) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_ASSIGN_OR_RETURN(State::Session * session, state_->Open(opened));
  if (tail_tokens.size() >= state_->geometry.chunk_tokens) {
    return absl::InvalidArgumentError("UpdateSession: the tail must be shorter than a chunk");
  }
  ChunkHash previous = SeedHash(session->model, state_->geometry);
  for (const ChunkHash& hash : chunks) {
    const State::Chunk* chunk = state_->Whole(hash);
    if (chunk == nullptr) return absl::FailedPreconditionError("UpdateSession: a chunk is not in the store");
    if (chunk->parent != previous) {
      return absl::InvalidArgumentError("UpdateSession: a chunk does not follow its predecessor");
    }
    previous = hash;
  }
  for (const ChunkHash& hash : chunks) ++state_->chunks[hash].refs;
  for (const ChunkHash& hash : session->chunks) state_->Unref(hash);
  session->chunks.assign(chunks.begin(), chunks.end());
  session->tail.assign(tail_tokens.begin(), tail_tokens.end());
  session->last_used = std::time(nullptr);
  return absl::OkStatus();
}

absl::Status MemoryKvClient::CloseSession(const OpenedSession& opened) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_RETURN_IF_ERROR(state_->Open(opened).status());
  state_->Close(opened.session_id);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint32_t>> MemoryKvClient::GetSession(const std::string& name,
                                                                 const ModelFingerprint& model) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  const auto found = state_->sessions.find(name);
  if (found == state_->sessions.end() || (found->second.chunks.empty() && found->second.tail.empty())) {
    return absl::NotFoundError(absl::StrCat("no session '", name, "'"));
  }
  if (found->second.model != model) {
    return absl::FailedPreconditionError(absl::StrCat("session '", name, "' was written by another model"));
  }
  std::vector<uint32_t> tokens;
  for (const ChunkHash& hash : found->second.chunks) {
    const auto& ids = state_->chunks[hash].token_ids;
    tokens.insert(tokens.end(), ids.begin(), ids.end());
  }
  tokens.insert(tokens.end(), found->second.tail.begin(), found->second.tail.end());
  return tokens;
}

absl::StatusOr<std::vector<SessionSummary>> MemoryKvClient::ListSessions() {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  std::vector<SessionSummary> list;
  for (const auto& [name, s] : state_->sessions) {
    if (!s.named) continue;
    const uint32_t chunks = static_cast<uint32_t>(s.chunks.size());
    list.push_back({name, uint64_t{chunks} * state_->geometry.chunk_tokens + s.tail.size(),
                    chunks * state_->geometry.block_bytes() * state_->geometry.layers, chunks, chunks,
                    s.last_used, s.open, s.pinned});
  }
  return list;
}

absl::Status MemoryKvClient::DeleteSession(const std::string& name) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  const auto found = state_->sessions.find(name);
  if (found == state_->sessions.end()) return absl::NotFoundError(absl::StrCat("no session '", name, "'"));
  if (found->second.open) {
    return absl::FailedPreconditionError(absl::StrCat("session '", name, "' is in use by another request"));
  }
  state_->Erase(name);
  return absl::OkStatus();
}

absl::Status MemoryKvClient::ForkSession(const std::string& from, const std::string& to) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_RETURN_IF_ERROR(ValidateSessionName(from));
  HGA_RETURN_IF_ERROR(ValidateSessionName(to));
  const auto source = state_->sessions.find(from);
  if (source == state_->sessions.end() || (source->second.chunks.empty() && source->second.tail.empty())) {
    return absl::NotFoundError(absl::StrCat("no session '", from, "'"));
  }
  if (state_->sessions.count(to) > 0) return absl::AlreadyExistsError(absl::StrCat("there is a session '", to, "'"));
  State::Session fork = source->second;
  fork.open = fork.pinned = false;
  fork.pins.clear();
  fork.last_used = std::time(nullptr);
  for (const ChunkHash& chunk : fork.chunks) ++state_->chunks[chunk].refs;
  state_->sessions[to] = std::move(fork);
  return absl::OkStatus();
}

absl::Status MemoryKvClient::PinSession(const std::string& name, bool pinned) {
  std::lock_guard<std::mutex> lock(state_->mu);
  HGA_RETURN_IF_ERROR(state_->Enter());
  HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  const auto found = state_->sessions.find(name);
  if (found == state_->sessions.end()) return absl::NotFoundError(absl::StrCat("no session '", name, "'"));
  found->second.pinned = pinned;
  return absl::OkStatus();
}

}  // namespace hga
