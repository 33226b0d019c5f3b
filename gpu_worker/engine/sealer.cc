#include "gpu_worker/engine/sealer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/log.h"
#include "common/base/request_id.h"
#include "common/base/status.h"
#include "gpu_worker/engine/store_retry.h"

namespace hga {
namespace {

constexpr int kStartAttempts = 4;

// The store that came back does not know the session: for the caller that is a store that was away.
absl::Status StoreError(const absl::Status& status) {
  if (!absl::IsFailedPrecondition(status)) return status;
  return absl::UnavailableError(
      absl::StrCat("kv_store was restarted; send the request again (", std::string(status.message()), ")"));
}

std::string SummaryOf(const KvGeometry& g, const SummaryMethod& method, const std::vector<HeldBlock>& blocks,
                      Helpers* helpers) {
  std::string data(method.chunk_bytes(g), '\0');
  helpers->Run(g.layers, [&](uint32_t layer, uint32_t) {
    SummarizeBlock(g, method, layer, blocks[layer].data(),
                   reinterpret_cast<uint8_t*>(&data[layer * method.layer_bytes(g)]));
  });
  return data;
}

SealerEvent MakeEvent(SealerEvent::Kind kind, uint64_t id, absl::Status status = absl::OkStatus()) {
  SealerEvent event;
  event.kind = kind;
  event.sequence_id = id;
  event.status = std::move(status);
  return event;
}

}  // namespace

Sealer::Sealer(const SealerOptions& options, KvClient* store, RouterLink* link,
               std::function<void(SealerEvent)> deliver)
    : options_(options), store_(store), link_(link), deliver_(std::move(deliver)), helpers_(options.threads) {}

void Sealer::Open(uint64_t id, std::shared_ptr<const EngineRequest> request) {
  executor_.Post([this, id, request] {
    const RequestScope scope(request->id);
    Record record;
    record.request_id = request->id;
    auto opened = OpenNow(id, *request, &record);
    SealerEvent event = MakeEvent(SealerEvent::Kind::kOpened, id, opened.status());
    if (opened.ok()) {
      event.opened = *std::move(opened);
      event.generation = record.route.generation;
      event.at_router = record.route.client != nullptr;
      event.acked = static_cast<uint32_t>(record.hashes.size());
      records_[id] = std::move(record);
    } else {
      if (!record.session.session_id.empty()) (void)store_->CloseSession(record.session);
      if (record.route.client != nullptr) record.route.client->CloseSequence(id);
    }
    deliver_(std::move(event));
  });
}

void Sealer::Post(uint64_t id, std::function<void()> work) {
  executor_.Post([this, id, work = std::move(work)] {
    const auto record = records_.find(id);
    const RequestScope scope(record == records_.end() ? "" : record->second.request_id);
    work();
  });
}

absl::StatusOr<std::vector<uint32_t>> Sealer::PromptOf(const EngineRequest& request) {
  std::vector<uint32_t> tokens;
  if (request.append) {
    HGA_ASSIGN_OR_RETURN(tokens, store_->GetSession(request.session, options_.model));
  }
  if (request.append && request.continuation) {
    HGA_ASSIGN_OR_RETURN(const auto more, request.continuation(tokens));
    tokens.insert(tokens.end(), more.begin(), more.end());
  } else {
    tokens.insert(tokens.end(), request.tokens.begin(), request.tokens.end());
  }
  if (tokens.size() + 1 > options_.context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", tokens.size(),
                                                   " tokens; the model's context holds ", options_.context_tokens,
                                                   ", one of them for the answer"));
  }
  return tokens;
}

absl::StatusOr<std::unique_ptr<StartedSequence>> Sealer::OpenNow(uint64_t id, const EngineRequest& request,
                                                                 Record* record) {
  auto opened = std::make_unique<StartedSequence>();
  HGA_ASSIGN_OR_RETURN(opened->tokens, PromptOf(request));
  const KvGeometry& g = options_.shape.geometry;
  opened->hashes = ChunkHashes(options_.model, g, opened->tokens);
  // At least one token is computed where a next one is wanted.
  if (request.max_tokens > 0) opened->hashes.resize((opened->tokens.size() - 1) / g.chunk_tokens);
  HGA_ASSIGN_OR_RETURN(record->session, store_->OpenSession(request.session, options_.model, opened->hashes));
  if (request.pin) HGA_RETURN_IF_ERROR(store_->PinSession(request.session, true));
  opened->hashes.resize(std::min<size_t>(opened->hashes.size(), record->session.matched_chunks));
  record->named = !request.session.empty();
  record->routed = request.routed;
  record->hashes = opened->hashes;
  if (record->routed) OpenRoute(id, record);
  opened->hashes.resize(record->hashes.size());
  HGA_RETURN_IF_ERROR(FetchStart(opened.get()));
  if (record->session.matched_in_ram >= opened->hashes.size()) HoldRest(opened.get());
  if (opened->hashes.size() < record->hashes.size()) {
    record->hashes = opened->hashes;
    if (record->routed) ReopenRoute(id, record);
  }
  return opened;
}

// Opens the route again for the same chunks; one that the router cannot get whole is none.
void Sealer::ReopenRoute(uint64_t id, Record* record) {
  const std::vector<ChunkHash> all = record->hashes;
  OpenRoute(id, record);
  if (record->hashes.size() < all.size()) record->route.client = nullptr;
  record->hashes = all;
}

// Sink and window of the first token to compute. A chunk that is lost shortens the prefix.
absl::Status Sealer::FetchStart(StartedSequence* opened) {
  absl::Status status;
  for (int attempt = 0; attempt < kStartAttempts + kStoreAttempts; ++attempt) {
    uint32_t lost_chunk = UINT32_MAX;
    opened->blocks.clear();
    opened->tiers.ram = opened->tiers.disk = 0;
    status = FetchStartOnce(opened, &lost_chunk);
    if (status.ok()) return status;
    if (lost_chunk != UINT32_MAX) {
      opened->tiers.recomputed += (opened->hashes.size() - lost_chunk) * options_.shape.geometry.layers;
      opened->hashes.resize(lost_chunk);
    } else if (absl::IsResourceExhausted(status)) {
      opened->blocks.clear();
      absl::SleepFor(StoreBackoff(attempt));
    } else {
      return status;
    }
  }
  return ExplainShortage(status);
}

absl::Status Sealer::FetchStartOnce(StartedSequence* opened, uint32_t* lost_chunk) {
  const auto matched = static_cast<uint32_t>(opened->hashes.size());
  std::vector<BlockName> names;
  std::vector<uint32_t> chunks;
  for (uint32_t chunk : MandatoryChunks(options_.shape, matched)) {
    if (chunk >= matched) continue;
    for (uint32_t layer = 0; layer < options_.shape.geometry.layers; ++layer) {
      names.push_back({opened->hashes[chunk], layer});
      chunks.push_back(chunk);
    }
  }
  if (names.empty()) return absl::OkStatus();
  HGA_ASSIGN_OR_RETURN(auto fetched, store_->Fetch(names));
  if (fetched.size() != names.size()) return absl::InternalError("kv_store answered for another number of blocks");
  absl::Status first_error;
  for (size_t i = 0; i < fetched.size(); ++i) {
    if (fetched[i].status.ok()) {
      ++(fetched[i].found_in == FoundIn::kDisk ? opened->tiers.disk : opened->tiers.ram);
      opened->blocks.push_back({chunks[i], names[i].layer, std::move(fetched[i].block)});
      continue;
    }
    if (BlockIsGone(fetched[i].status)) *lost_chunk = std::min(*lost_chunk, chunks[i]);
    if (first_error.ok()) first_error = fetched[i].status;
  }
  return first_error;
}

// A document that is in RAM whole is held whole, so that no step has to ask for its blocks; the store asks holds back
// when it runs short. What cannot be had now is fetched when it is selected.
void Sealer::HoldRest(StartedSequence* opened) {
  constexpr size_t kMostBlocks = 65536;  // of one Fetch
  const KvGeometry& g = options_.shape.geometry;
  const auto matched = static_cast<uint32_t>(opened->hashes.size());
  const ChunkRange rest = OptionalChunks(options_.shape, matched);
  if (rest.empty() || size_t{rest.end - rest.first} * g.layers > kMostBlocks) return;
  std::vector<BlockName> names;
  for (uint32_t chunk = rest.first; chunk < rest.end; ++chunk) {
    for (uint32_t layer = 0; layer < g.layers; ++layer) names.push_back({opened->hashes[chunk], layer});
  }
  auto fetched = store_->Fetch(names);
  if (!fetched.ok() || fetched->size() != names.size()) return;
  for (size_t i = 0; i < names.size(); ++i) {
    if (!(*fetched)[i].status.ok()) continue;
    ++((*fetched)[i].found_in == FoundIn::kDisk ? opened->tiers.disk : opened->tiers.ram);
    const uint32_t chunk = rest.first + static_cast<uint32_t>(i) / g.layers;
    opened->blocks.push_back({chunk, names[i].layer, std::move((*fetched)[i].block)});
  }
}

// Afterwards record->hashes are all indexed there, or record->route is empty. What the router lacks and the store
// cannot give, nor the K/V to make it of, is computed again.
void Sealer::OpenRoute(uint64_t id, Record* record) {
  record->route = link_->current();
  if (record->route.client == nullptr) return;
  const auto indexed = IndexAtRouter(id, record);
  if (indexed.ok()) {
    record->hashes.resize(std::min<size_t>(record->hashes.size(), *indexed));
    return;
  }
  if (absl::IsUnavailable(indexed.status())) {
    link_->MarkLost(record->route.generation, indexed.status());
  } else {
    LogWarning("the router refused a sequence, its attention is dense", {{"error", indexed.status().message()}});
  }
  record->route.client = nullptr;
}

absl::StatusOr<uint32_t> Sealer::IndexAtRouter(uint64_t id, Record* record) {
  RouteClient* router = record->route.client.get();
  HGA_ASSIGN_OR_RETURN(uint32_t indexed, router->OpenSequence(id, record->hashes));
  if (indexed >= record->hashes.size()) return indexed;
  absl::Status status;
  const absl::Status read = store_->GetSummaries(
      absl::MakeConstSpan(record->hashes).subspan(indexed),
      [&](const ChunkHash& hash, const std::string& method, const std::string& data) {
        if (!status.ok() || method != options_.method->name || hash != record->hashes[indexed]) return;
        status = router->AppendSummary(id, indexed, hash, data);
        if (status.ok()) ++indexed;
      });
  if (!read.ok()) LogWarning("summaries are missing in kv_store", {{"error", read.message()}});
  if (status.ok()) status = SummarizeAgain(id, *record, &indexed);
  if (absl::IsUnavailable(status)) return status;
  return indexed;
}

// What the store has summaries of by another method or plan, as another backend or program measures it: from the K/V,
// which takes a fraction of the time that computing the tokens again does. The store keeps what it has. An error is the
// router's; where the store has none of the K/V, the rest is left out.
absl::Status Sealer::SummarizeAgain(uint64_t id, const Record& record, uint32_t* indexed) {
  const uint32_t first = *indexed, end = static_cast<uint32_t>(record.hashes.size());
  const absl::Time start = absl::Now();
  for (; *indexed < end; ++*indexed) {
    const ChunkHash& hash = record.hashes[*indexed];
    const auto blocks = FetchChunk(hash);
    if (!blocks.ok()) {
      LogWarning("a summary cannot be made again", {{"error", blocks.status().message()}});
      break;
    }
    const std::string summary = SummaryOf(options_.shape.geometry, *options_.method, *blocks, &helpers_);
    HGA_RETURN_IF_ERROR(record.route.client->AppendSummary(id, *indexed, hash, summary));
  }
  if (first < end) {
    LogInfo("summaries made again from K/V", {{"chunks", *indexed - first}, {"of", end - first},
                                              {"seconds", absl::ToDoubleSeconds(absl::Now() - start)}});
  }
  return absl::OkStatus();
}

// All blocks of a chunk; waits for room.
absl::StatusOr<std::vector<HeldBlock>> Sealer::FetchChunk(const ChunkHash& hash) {
  std::vector<BlockName> names;
  for (uint32_t layer = 0; layer < options_.shape.geometry.layers; ++layer) names.push_back({hash, layer});
  absl::Status status;
  for (int attempt = 0; attempt < kStoreAttempts; ++attempt) {
    HGA_ASSIGN_OR_RETURN(auto fetched, store_->Fetch(names));
    if (fetched.size() != names.size()) return absl::InternalError("kv_store answered for another number of blocks");
    std::vector<HeldBlock> blocks;
    status = absl::OkStatus();
    for (FetchedBlock& block : fetched) {
      status.Update(block.status);
      blocks.push_back(std::move(block.block));
    }
    if (status.ok()) return blocks;
    if (!absl::IsResourceExhausted(status)) return status;
    blocks.clear();
    fetched.clear();
    absl::SleepFor(StoreBackoff(attempt));
  }
  return status;
}

void Sealer::Reserve(uint64_t id) {
  Post(id, [this, id] {
    auto blocks = store_->Reserve(options_.shape.geometry.layers);
    SealerEvent event = MakeEvent(SealerEvent::Kind::kReserved, id, blocks.status());
    if (blocks.ok()) event.blocks = *std::move(blocks);
    deliver_(std::move(event));
  });
}

void Sealer::Seal(SealTask task) {
  auto shared = std::make_shared<SealTask>(std::move(task));  // std::function copies
  Post(shared->sequence_id, [this, shared] { SealNow(std::move(*shared)); });
}

void Sealer::SealNow(SealTask task) {
  Record& record = records_[task.sequence_id];
  if (!record.failed.ok()) {
    SealerEvent event = MakeEvent(SealerEvent::Kind::kCommitted, task.sequence_id, record.failed);
    event.chunk = task.chunk;
    event.blocks = std::move(task.blocks);
    deliver_(std::move(event));
    return;
  }
  CommitChunk commit;
  commit.summary = SummaryOf(options_.shape.geometry, *options_.method, task.blocks, &helpers_);
  commit.summary_method = options_.method->name;
  record.hashes.push_back(task.hash);
  AppendSummary(task, commit.summary, &record);
  commit.hash = task.hash;
  commit.parent = task.parent;
  commit.token_ids = std::move(task.token_ids);
  commit.blocks = std::move(task.blocks);
  CommitIfNew(task.sequence_id, task.chunk, std::move(commit), task.checkpoint);
}

void Sealer::CommitIfNew(uint64_t id, uint32_t chunk, CommitChunk commit, bool checkpoint) {
  auto duplicate = FindDuplicate(commit.hash);
  if (duplicate.ok() && duplicate->empty()) return CommitNow(id, chunk, std::move(commit), checkpoint);
  SealerEvent event = MakeEvent(SealerEvent::Kind::kDuplicate, id);
  event.chunk = chunk;
  if (duplicate.ok()) {
    event.blocks = *std::move(duplicate);
    event.commit = std::move(commit);
  } else {
    event.kind = SealerEvent::Kind::kCommitted;
    event.status = records_[id].failed = StoreError(duplicate.status());
    event.blocks = std::move(commit.blocks);
  }
  deliver_(std::move(event));
}

void Sealer::AppendSummary(const SealTask& task, const std::string& summary, Record* record) {
  if (record->route.client == nullptr) return;
  const absl::Status status =
      record->route.client->AppendSummary(task.sequence_id, task.chunk, task.hash, summary);
  SealerEvent event = MakeEvent(SealerEvent::Kind::kRouted, task.sequence_id);
  event.generation = record->route.generation;
  event.acked = task.chunk + 1;
  if (!status.ok()) {
    event.kind = SealerEvent::Kind::kRouteLost;
    event.status = status;
    if (absl::IsUnavailable(status)) link_->MarkLost(record->route.generation, status);
    record->route.client = nullptr;
  }
  deliver_(std::move(event));
}

// The store's own blocks of a chunk that it may have in RAM only: they take the place of the copies at the commit.
// Empty: the store has none, or has the chunk on disk and takes the copies. What is in RAM only needs no room to be
// fetched.
absl::StatusOr<std::vector<HeldBlock>> Sealer::FindDuplicate(const ChunkHash& hash) {
  std::vector<BlockName> names = {{hash, 0}};
  std::vector<HeldBlock> blocks;
  while (blocks.size() < options_.shape.geometry.layers) {
    HGA_ASSIGN_OR_RETURN(auto fetched, store_->Fetch(names));
    if (fetched.size() != names.size()) return absl::InternalError("kv_store answered for another number of blocks");
    blocks.clear();
    for (FetchedBlock& block : fetched) {
      const bool on_disk = absl::IsResourceExhausted(block.status) || block.found_in == FoundIn::kDisk;
      if (on_disk || BlockIsGone(block.status)) return std::vector<HeldBlock>();
      HGA_RETURN_IF_ERROR(block.status);
      blocks.push_back(std::move(block.block));
    }
    for (auto layer = static_cast<uint32_t>(names.size()); layer < options_.shape.geometry.layers; ++layer) {
      names.push_back({hash, layer});
    }
  }
  return blocks;
}

void Sealer::CommitDuplicate(uint64_t id, uint32_t chunk, CommitChunk commit, bool checkpoint) {
  auto shared = std::make_shared<CommitChunk>(std::move(commit));
  Post(id, [this, id, chunk, shared, checkpoint] { CommitNow(id, chunk, std::move(*shared), checkpoint); });
}

void Sealer::FindAgain(uint64_t id, uint32_t chunk, CommitChunk commit, bool checkpoint) {
  auto shared = std::make_shared<CommitChunk>(std::move(commit));
  Post(id, [this, id, chunk, shared, checkpoint] { CommitIfNew(id, chunk, std::move(*shared), checkpoint); });
}

void Sealer::CommitNow(uint64_t id, uint32_t chunk, CommitChunk commit, bool checkpoint) {
  Record& record = records_[id];
  auto blocks = store_->Commit(record.session, std::move(commit));
  SealerEvent event = MakeEvent(SealerEvent::Kind::kCommitted, id);
  event.chunk = chunk;
  if (blocks.ok()) {
    event.blocks = *std::move(blocks);
  } else {
    event.status = record.failed = StoreError(blocks.status());
  }
  if (blocks.ok() && checkpoint && record.named && chunk < record.hashes.size()) {
    const auto manifest = absl::MakeConstSpan(record.hashes).subspan(0, chunk + 1);
    const absl::Status saved = store_->UpdateSession(record.session, manifest, {});
    if (!saved.ok()) LogWarning("a session's checkpoint failed", {{"error", saved.message()}});
  }
  deliver_(std::move(event));
}

void Sealer::Reattach(uint64_t id) {
  Post(id, [this, id] {
    Record& record = records_[id];
    if (!record.routed) return;
    ReopenRoute(id, &record);
    const auto kind = record.route.client != nullptr ? SealerEvent::Kind::kRouted : SealerEvent::Kind::kRouteLost;
    SealerEvent event = MakeEvent(kind, id);
    event.generation = record.route.generation;
    event.acked = static_cast<uint32_t>(record.hashes.size());
    event.reattach = true;
    deliver_(std::move(event));
  });
}

void Sealer::CutBack(uint64_t id, uint32_t chunks) {
  Post(id, [this, id, chunks] {
    Record& record = records_[id];
    if (record.hashes.size() > chunks) record.hashes.resize(chunks);
  });
  Reattach(id);
}

void Sealer::Close(uint64_t id, bool save, uint32_t chunks, std::vector<uint32_t> tail) {
  Post(id, [this, id, save, chunks, tail = std::move(tail)] {
    Record& record = records_[id];
    absl::Status status;
    if (save && record.named && chunks <= record.hashes.size()) {
      status = store_->UpdateSession(record.session, absl::MakeConstSpan(record.hashes).subspan(0, chunks), tail);
    }
    const absl::Status closed = store_->CloseSession(record.session);
    if (status.ok() && record.named) status = closed;
    if (record.route.client != nullptr) record.route.client->CloseSequence(id);
    records_.erase(id);
    deliver_(MakeEvent(SealerEvent::Kind::kClosed, id, std::move(status)));
  });
}

}  // namespace hga
