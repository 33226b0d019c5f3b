#include "kv_store/tool/import.h"

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/status.h"

namespace hga {
namespace {

constexpr absl::Duration kPatience = absl::Minutes(1);
constexpr absl::Duration kRetry = absl::Milliseconds(50);

absl::StatusOr<std::string> NameFor(const SessionRecord& session, const std::string& as) {
  const std::string name = as.empty() ? session.name : as;
  HGA_RETURN_IF_ERROR(ValidateSessionName(name));
  return name;
}

absl::Status Taken(const std::string& name) {
  return absl::AlreadyExistsError(absl::StrCat("there is a session '", name, "'; give another name"));
}

absl::Status ForEachChunk(SessionFileReader* file, const Progress& progress,
                          absl::FunctionRef<absl::Status(size_t, SessionFileChunk)> take) {
  const size_t count = file->session().chunks.size();
  for (size_t i = 0; i < count; ++i) {
    HGA_ASSIGN_OR_RETURN(SessionFileChunk chunk, file->Next());
    HGA_RETURN_IF_ERROR(take(i, std::move(chunk)));
    if (progress) progress(i + 1, count);
  }
  return file->CheckEnd();
}

// --- Into a folder ---

absl::Status UseGeometry(KvTier* tier, const KvGeometry& geometry) {
  const auto own = tier->GetGeometry();
  if (absl::IsNotFound(own.status())) return tier->SetGeometry(geometry);
  HGA_RETURN_IF_ERROR(own.status());
  if (*own == geometry) return absl::OkStatus();
  return absl::FailedPreconditionError("the store holds K/V of another shape than the file");
}

absl::Status CheckFree(KvTier* tier, const std::string& name) {
  bool taken = false;
  HGA_RETURN_IF_ERROR(
      tier->ForEachSession([&](const Scanned<SessionRecord>& scanned) { taken = taken || scanned.key == name; }));
  return taken ? Taken(name) : absl::OkStatus();
}

absl::Status Write(KvTier* tier, SessionFileChunk chunk) {
  WriteStep step;
  if (chunk.record.checksums.empty()) {
    step.put_tokens.push_back(std::move(chunk.record));
    return tier->Write(step);
  }
  ChunkWrite write;
  for (const std::vector<uint8_t>& block : chunk.blocks) write.blocks.push_back(block.data());
  write.record = std::make_shared<const ChunkRecord>(std::move(chunk.record));
  write.summary = std::make_shared<const SummaryRecord>(std::move(chunk.summary));
  step.put_chunks.push_back(std::move(write));
  return tier->Write(step);
}

// --- Through kv_store ---

absl::Status PutOnce(KvClient* store, const OpenedSession& session, const SessionFileChunk& from) {
  CommitChunk chunk{from.record.hash, from.record.parent, from.record.token_ids, {}, from.summary.method,
                    from.summary.data};
  HGA_ASSIGN_OR_RETURN(chunk.blocks, store->Reserve(static_cast<uint32_t>(from.blocks.size())));
  for (size_t layer = 0; layer < from.blocks.size(); ++layer) {
    std::memcpy(chunk.blocks[layer].data(), from.blocks[layer].data(), from.blocks[layer].size());
  }
  return store->Commit(session, std::move(chunk)).status();
}

absl::Status Put(KvClient* store, const OpenedSession& session, const SessionFileChunk& chunk) {
  const absl::Time deadline = absl::Now() + kPatience;
  for (;;) {
    const absl::Status status = PutOnce(store, session, chunk);
    if (!absl::IsResourceExhausted(status) || absl::Now() > deadline) return status;
    absl::SleepFor(kRetry);
  }
}

absl::Status PutAll(KvClient* store, const OpenedSession& opened, SessionFileReader* file, const Progress& progress) {
  const SessionRecord& session = file->session();
  // With the session open nobody else can give it content.
  const auto there = store->GetSession(opened.session_id, session.model);
  if (!absl::IsNotFound(there.status())) return there.ok() ? Taken(opened.session_id) : there.status();
  HGA_RETURN_IF_ERROR(ForEachChunk(file, progress, [&](size_t i, const SessionFileChunk& chunk) {
    if (i < opened.matched_chunks) return absl::OkStatus();
    if (!chunk.blocks.empty()) return Put(store, opened, chunk);
    return absl::FailedPreconditionError(absl::StrCat("chunk ", i, " of ", session.chunks.size(),
                                                      " has no K/V in the file; only a stopped store takes it"));
  }));
  return store->UpdateSession(opened, session.chunks, session.tail_tokens);
}

}  // namespace

absl::StatusOr<std::string> ImportSession(KvTier* tier, const std::string& as, SessionFileReader* file,
                                          const Progress& progress) {
  HGA_RETURN_IF_ERROR(UseGeometry(tier, file->geometry()));
  SessionRecord session = file->session();
  HGA_ASSIGN_OR_RETURN(session.name, NameFor(session, as));
  HGA_RETURN_IF_ERROR(CheckFree(tier, session.name));
  HGA_RETURN_IF_ERROR(
      ForEachChunk(file, progress, [&](size_t, SessionFileChunk chunk) { return Write(tier, std::move(chunk)); }));
  WriteStep last;
  last.put_sessions.push_back(session);
  HGA_RETURN_IF_ERROR(tier->Write(last));
  return session.name;
}

absl::StatusOr<std::string> ImportSession(KvClient* store, const std::string& as, SessionFileReader* file,
                                          const Progress& progress) {
  const SessionRecord& session = file->session();
  HGA_ASSIGN_OR_RETURN(const std::string name, NameFor(session, as));
  HGA_ASSIGN_OR_RETURN(const OpenedSession opened, store->OpenSession(name, session.model, session.chunks));
  absl::Status status = PutAll(store, opened, file, progress);
  const absl::Status closed = store->CloseSession(opened);
  status.Update(closed);
  HGA_RETURN_IF_ERROR(status);
  if (session.pinned) HGA_RETURN_IF_ERROR(store->PinSession(name, true));
  return name;
}

}  // namespace hga
