#include "tests/fault/simulation.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kv_store/store/block_store.h"
#include "kv_store/tier/memory_tier.h"
#include "kv_store/tier/packed_tier.h"
#include "tests/fault/simulated_client.h"
#include "tests/fault/store_model.h"

namespace hga {
namespace {

constexpr uint32_t kSlots = 20, kClients = 3;
constexpr size_t kMaxReadsWaiting = 12;
constexpr uint64_t kPackedBytes = 5500, kBudgetChunks = 3;  // some ten blocks

class Simulation {
 public:
  Simulation(const SimulationOptions& options, SimulationCounts* counts)
      : options_(options), counts_(counts), random_(options.seed), memory_(kSlots) {
    for (auto& slot : memory_) slot.assign(model_.geometry().block_bytes(), 0);
  }

  std::string Run() {
    StartStore();
    for (step_ = 0; step_ < options_.steps && error_.empty(); ++step_) Step();
    if (error_.empty()) Quiesce();
    if (error_.empty()) Restart(/*clean=*/true);
    if (error_.empty()) ReadAllBack();
    if (error_.empty()) GiveEverythingBack();
    return error_.empty() ? "" : absl::StrCat("step ", step_, ": ", error_);
  }

 private:
  using Hold = SimulatedHold;
  using Client = SimulatedClient;
  // --- Bits ---
  uint32_t Pick(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  bool Chance(uint32_t percent) { return Pick(100) < percent; }
  void Fail(const std::string& what) { error_ = error_.empty() ? what : error_; }
  template <typename... Args>
  void Trace(const Args&... args) {
    if (options_.trace) std::fprintf(stderr, "%u: %s\n", step_, absl::StrCat(args...).c_str());
  }
  std::string RandomName() { return absl::StrCat("s", Pick(5)); }
  bool Matches(uint32_t slot, const Hold& hold) const {
    return hold.spoiled || model_.HasHeads(memory_[slot], hold.chunk, hold.layer, hold.heads);
  }

  // Most often one that the store has.
  ChunkHash RandomChunk() {
    const std::set<ChunkHash> referred = model_.Referred();
    if (referred.empty() || Chance(10)) return model_.RandomPath(&random_).back();
    return *std::next(referred.begin(), Pick(static_cast<uint32_t>(referred.size())));
  }

  // --- Life ---
  void StartStore() {
    BlockStoreOptions options;
    options.writeback_queue_chunks = 6;
    options.write_step_bytes = model_.geometry().block_bytes() * model_.geometry().layers * 2;
    options.verify_ram_every = 3;
    options.now_unix_s = [this] { return now_; };
    if (has_budget_) options.disk_bytes = kBudgetChunks * ChunkBytes() * 10 / 7 + 10;
    store_ = std::make_unique<BlockStore>(options);
    if (has_packed_) packed_ = std::make_unique<PackedTier>(disk_, kPackedBytes);
    if (const auto status = store_->Load(tier()); !status.ok()) return Fail(absl::StrCat("Load: ", status.message()));
    if (!tier()->SetGeometry(model_.geometry()).ok()) return Fail("SetGeometry");
    for (auto& slot : memory_) std::fill(slot.begin(), slot.end(), 0xee);
    store_->SetSlots(model_.geometry(), kSlots, [this](uint32_t slot) { return memory_[slot].data(); });
    for (Client& client : clients_) Attach(&client);
  }
  KvTier* tier() { return packed_ != nullptr ? static_cast<KvTier*>(packed_.get()) : disk_.get(); }
  uint64_t ChunkBytes() const { return model_.geometry().block_bytes() * model_.geometry().layers; }
  void Attach(Client* client) {
    *client = Client{next_client_++, {}, {}};
    store_->AddClient(client->id);
  }

  // Everything that was not durable is gone. The step under way reached the disk whole, or not at all.
  void Restart(bool clean) {
    if (clean) Quiesce();
    if (!error_.empty()) return;
    Trace(clean ? "restart" : "crash");
    ++(clean ? counts_->restarts : counts_->crashes);
    if (job_.has_value() && Chance(50)) ApplyStep();
    job_.reset();
    reads_.clear();
    departed_.clear();
    store_.reset();
    StartStore();
    if (error_.empty()) CheckRecovered();
  }

  // With nobody left, every slot can be had.
  void GiveEverythingBack() {
    for (Client& client : clients_) store_->FreeClient(client.id);
    if (store_->stats().slots_held != 0) return Fail("slots are held by nobody");
    Attach(&clients_[0]);
    if (!store_->Reserve(clients_[0].id, kSlots).ok()) Fail("not every slot can be had with nobody left");
  }

  // --- The disk ---
  void TakeWrite() {
    if (job_.has_value()) return;
    const bool looks = store_->stats().chunks_dirty > 0;
    const size_t pinned = model_.PinnedChunks();
    job_ = store_->TakeWrite();
    if (has_budget_) CheckBudget(pinned, looks);
    if (!job_.has_value()) return;
    rejected_ = RejectDamaged(model_.geometry(), &job_->step);
    for (const ChunkHash& hash : rejected_) {
      if (!model_.IsScribbled(hash)) Fail("rejected a chunk that nobody damaged");
    }
    Trace("take write: ", job_->step.put_chunks.size(), " chunks, ", job_->step.put_sessions.size(), " sessions, ",
          job_->step.delete_chunks.size(), " deleted");
  }
  // After a step was taken, which `looked` at the budget: K/V was given up only of sessions that may lose it, and where
  // there is still too much, of every one of those.
  void CheckBudget(size_t pinned, bool looked) {
    for (const SessionView& view : store_->ListSessions()) {
      if (view.pinned || !model_.IsPinned(view.name)) continue;
      if (pinned <= kBudgetChunks / 2) return Fail("a pin lapsed within the quota");
      model_.Pinned(view.name, false);
      ++counts_->lapsed_pins;
    }
    uint64_t whole = 0;
    for (const ChunkHash& hash : model_.Referred()) {
      if (store_->FindSummary(hash).ok()) {
        ++whole;
      } else if (model_.MayBeWhole(hash)) {
        if (!model_.MayBeGivenUp(hash)) return Fail("the budget took K/V of a session that is open, pinned or shared");
        model_.Lost(hash);
        ++counts_->given_up;
      }
    }
    if (!looked || whole <= kBudgetChunks) return;
    for (const ChunkHash& hash : model_.NextToGiveUp()) {
      if (store_->FindSummary(hash).ok()) return Fail("over its budget with K/V that could have been given up");
    }
  }
  // What the medium does with a step: all of it, and now and then it lies about a block.
  void ApplyStep() {
    if (!tier()->Write(job_->step).ok()) return Fail("the tier refused a step");
    for (const ChunkHash& hash : job_->step.delete_chunks) model_.NotDamagedOnDisk(hash);
    for (const ChunkHash& hash : job_->step.drop_blocks) model_.NotDamagedOnDisk(hash);
    for (const ChunkWrite& write : job_->step.put_chunks) {
      model_.NotDamagedOnDisk(write.record->hash);
      if (Chance(3)) DamageOnDisk(write.record->hash);
    }
  }
  void DamageOnDisk(const ChunkHash& hash) {
    static constexpr MemoryTier::Damage kKinds[] = {MemoryTier::Damage::kFlippedBit, MemoryTier::Damage::kShort,
                                                    MemoryTier::Damage::kDropped};
    if (!disk_->DamageBlock({hash, Pick(model_.geometry().layers)}, kKinds[Pick(3)])) return;
    ++counts_->damaged_blocks;
    model_.DamagedOnDisk(hash);
    Trace("damage ", hash.ToHex());
  }
  void FinishWrite() {
    if (!job_.has_value()) return TakeWrite();
    const uint32_t fate = Pick(100);
    if (fate < 15) {  // fails; sometimes it is on the disk all the same
      if (fate < 5) ApplyStep();
      disk_->FailWrites(absl::ResourceExhaustedError("disk full"));
      if (tier()->Write(job_->step).ok()) Fail("a write of a full disk did not fail");
      disk_->FailWrites(absl::OkStatus());
      ++counts_->failed_writes;
      Trace("write fails");
      const WriteJob job = *std::move(job_);
      job_.reset();
      return store_->FailWrite(job.step, absl::ResourceExhaustedError("disk full"));
    }
    ApplyStep();
    job_.reset();
    store_->FinishWrite(rejected_);
    for (const ChunkHash& hash : rejected_) NoteLoss(hash);
  }
  void Read(const DiskRead& read, const absl::Status& fault) {
    BlockRead block{read.name, memory_[read.slot].data()};
    block.heads = read.heads;
    tier()->ReadBlocks(absl::MakeSpan(&block, 1));
    if (!fault.ok()) block.status = fault;
    counts_->fetched_packed += block.from_ram && block.status.ok();
    store_->FinishRead(read.slot, block.status, block.checksum, block.from_ram);
  }
  void FinishRead() {
    if (reads_.empty()) return;
    const size_t i = Pick(static_cast<uint32_t>(reads_.size()));
    const DiskRead read = reads_[i];
    reads_.erase(reads_.begin() + i);
    Read(read, Chance(5) ? absl::UnavailableError("the disk does not answer") : absl::OkStatus());
    NoteLoss(read.name.chunk);
  }
  // A chunk that the store has given up was damaged by somebody.
  void NoteLoss(const ChunkHash& chunk) {
    if (!model_.MayBeWhole(chunk) || store_->FindSummary(chunk).ok()) return;
    if (model_.MustBeWhole(chunk)) return Fail("a chunk is given up that nothing damaged");
    model_.Lost(chunk);
  }
  // Until nothing is left to do. Only what the store itself forgets can keep it from that.
  void Quiesce() {
    while (!reads_.empty()) FinishRead();
    for (int i = 0; i < 10000 && error_.empty() && (job_.has_value() || store_->HasPendingWrites()); ++i) FinishWrite();
    if (!error_.empty()) return;
    if (store_->HasPendingWrites()) return Fail("writes do not come to an end");
    CheckDisk();
  }

  // --- Clients ---
  void OpenSession(Client* client) {
    const bool named = Chance(80);
    const std::string name = named ? RandomName() : "";
    const std::vector<ChunkHash> path = model_.RandomPath(&random_);
    const auto opened = store_->OpenSession(client->id, name, model_.fingerprint(), path);
    if (named && model_.IsOpen(name)) {
      if (opened.ok()) Fail("two writers of one session");
      return;
    }
    if (!opened.ok()) return Fail(absl::StrCat("OpenSession: ", opened.status().message()));
    const auto [least, most] = model_.MatchBounds(path);
    Trace("open ", opened->session_id, " matched ", opened->matched, " of ", path.size());
    if (opened->matched < least || opened->matched > most) {
      return Fail(absl::StrCat("OpenSession matched ", opened->matched, " chunks, must be ", least, " to ", most));
    }
    model_.Opened(opened->session_id, named, opened->epoch, {path.begin(), path.begin() + opened->matched});
    client->sessions.push_back(opened->session_id);
  }
  // Goes on with a session where its chunks end, along a random path.
  void Commit(Client* client) {
    if (client->sessions.empty()) return;
    const std::string id = client->sessions[Pick(static_cast<uint32_t>(client->sessions.size()))];
    const std::vector<ChunkHash> path = model_.RandomPath(&random_);
    const size_t next = model_.MatchBounds(path).second;
    const ChunkHash hash = path[next < path.size() && Chance(80) ? next : Pick(static_cast<uint32_t>(path.size()))];
    const uint32_t layers = model_.geometry().layers;
    const auto slots = store_->Reserve(client->id, layers);
    if (absl::IsResourceExhausted(slots.status())) {
      ++counts_->refused;
      return CheckRefusal();
    }
    if (!slots.ok()) return Fail(absl::StrCat("Reserve: ", slots.status().message()));
    CheckUnheld(*slots);
    CommitArgs args;
    args.session_id = id;
    args.epoch = model_.Epoch(id);
    args.hash = hash;
    args.parent = model_.Parent(hash);
    args.token_ids = model_.Tokens(hash);
    args.slots = *slots;
    args.summary = {"mean", hash.ToHex()};
    for (uint32_t layer = 0; layer < layers; ++layer) {
      memory_[(*slots)[layer]] = model_.Bytes(hash, layer);
      args.checksums.push_back(BlockChecksum(memory_[(*slots)[layer]].data(), model_.geometry().block_bytes()));
    }
    if (Chance(5)) {  // gives up instead
      if (!store_->Release(client->id, *slots).ok()) Fail("Release of a reservation");
      return;
    }
    const bool must = model_.MustBeWhole(hash), may = model_.MayBeWhole(hash);
    const auto outcome = store_->Commit(client->id, std::move(args));
    if (!outcome.ok()) return Fail(absl::StrCat("Commit: ", outcome.status().message()));
    ++counts_->commits;
    Trace("commit ", hash.ToHex(), outcome->duplicate ? " (duplicate)" : "", " in ", id);
    if (outcome->duplicate ? !may : must) return Fail("a commit took a chunk for another than it is");
    model_.Committed(id, hash, outcome->duplicate);
    for (uint32_t layer = 0; layer < layers; ++layer) TakeHold(client, outcome->slots[layer], {hash, layer});
    const uint64_t version = model_.CommitVersion(hash);
    store_->WhenDurable(hash, [this, hash, version](absl::Status status) {
      if (!status.ok()) return;
      ++counts_->durable;
      model_.Durable(hash, version);
    });
    // A client that goes on writing after its commit: not its right, and not to become anybody's data.
    if (!outcome->duplicate && Chance(3)) {
      Spoil(outcome->slots[0], hash);
    }
  }
  void TakeHold(Client* client, uint32_t slot, Hold hold) {
    hold.spoiled = hold.spoiled || model_.IsScribbled(hold.chunk);
    if (!Matches(slot, hold)) {
      Fail(absl::StrCat("slot ", slot, " holds other bytes than chunk ", hold.chunk.ToHex()));
    }
    client->holds.emplace(slot, hold);
  }
  void Spoil(uint32_t slot, const ChunkHash& chunk) {
    Trace("spoil ", chunk.ToHex());
    memory_[slot][3] ^= 0x40;
    model_.Scribbled(chunk);
    spoiled_.insert({chunk, model_.CommitVersion(chunk)});
    const auto mark = [&](auto& holders) {
      for (auto& holder : holders) {
        for (auto& [held, hold] : holder.holds) hold.spoiled = hold.spoiled || hold.chunk == chunk || held == slot;
      }
    };
    mark(clients_);
    mark(departed_);
  }
  void Release(Client* client) {
    std::vector<uint32_t> slots;
    for (auto at = client->holds.begin(); at != client->holds.end();) {
      if (Chance(50)) {
        ++at;
        continue;
      }
      if (!Matches(at->first, at->second)) Fail("a held slot has changed");
      slots.push_back(at->first);
      at = client->holds.erase(at);
    }
    if (!store_->Release(client->id, slots).ok()) Fail("Release");
  }
  void Fetch(Client* client) {
    if (reads_.size() > kMaxReadsWaiting) return FinishRead();
    std::vector<BlockHeads> wanted;
    std::vector<uint64_t> versions;  // of the chunks, when they were asked for
    for (uint32_t n = 1 + Pick(4); n > 0; --n) {
      const BlockName name{RandomChunk(), Pick(model_.geometry().layers)};
      wanted.push_back({name, Chance(30) ? uint64_t{1} + Pick(3) : kAllHeads});
      versions.push_back(model_.CommitVersion(name.chunk));
    }
    const ClientId id = client->id;
    const uint64_t life = counts_->crashes + counts_->restarts;
    auto reads = store_->Fetch(id, wanted, [this, wanted, versions, id, life](std::vector<FetchOutcome> outcomes) {
      if (life != counts_->crashes + counts_->restarts) return Fail("an answer from before the crash");
      Fetched(id, wanted, versions, outcomes);
    });
    if (!reads.ok()) return Fail(absl::StrCat("Fetch: ", reads.status().message()));
    for (const BlockHeads& block : wanted) NoteLoss(block.name.chunk);
    for (const DiskRead& read : *reads) {
      CheckUnheld({read.slot});
      counts_->reads_of_heads += read.heads != kAllHeads;
      reads_.push_back(read);
    }
  }
  void Fetched(ClientId id, const std::vector<BlockHeads>& wanted, const std::vector<uint64_t>& versions,
               const std::vector<FetchOutcome>& outcomes) {
    const auto client = std::find_if(std::begin(clients_), std::end(clients_), [&](auto& c) { return c.id == id; });
    for (size_t i = 0; i < wanted.size(); ++i) {
      const BlockName& name = wanted[i].name;
      const absl::Status& status = outcomes[i].status;
      if (status.ok()) {
        ++(outcomes[i].from_disk ? counts_->fetched_disk : counts_->fetched_ram);
        if (client == std::end(clients_)) continue;  // left meanwhile; what it was given goes with it
        const bool spoiled = spoiled_.count({name.chunk, versions[i]}) > 0;
        TakeHold(client, outcomes[i].slot, {name.chunk, name.layer, spoiled, wanted[i].heads});
      } else if (absl::IsDataLoss(status)) {
        ++counts_->data_loss;
        // The answer may come long after it was found out.
        if (model_.CommitVersion(name.chunk) == versions[i]) NoteLoss(name.chunk);
      }
    }
  }

  void UpdateSession(Client* client) {
    if (client->sessions.empty()) return;
    const std::string id = client->sessions[Pick(static_cast<uint32_t>(client->sessions.size()))];
    std::vector<ChunkHash> path = model_.RandomPath(&random_);
    std::vector<uint32_t> tail(Pick(model_.geometry().chunk_tokens), Pick(1000));
    path.resize(std::min<size_t>(path.size(), model_.MatchBounds(path).second));
    const absl::Status status = store_->UpdateSession(client->id, id, model_.Epoch(id), path, tail);
    if (!status.ok()) {
      if (model_.MatchBounds(path).first >= path.size()) Fail(absl::StrCat("UpdateSession: ", status.message()));
      return;
    }
    Trace("update ", id, " to ", path.size(), " chunks");
    model_.Updated(id, path, tail);
    NoteSaved(id);
  }
  // What is acknowledged as saved must be there after a crash, or something later.
  void NoteSaved(const std::string& name) {
    const uint64_t version = model_.SessionVersion(name);
    store_->WhenSaved([this, name, version](absl::Status status) {
      if (status.ok()) model_.Saved(name, version);
    });
  }
  void CloseSession(Client* client) {
    if (client->sessions.empty()) return;
    const size_t i = Pick(static_cast<uint32_t>(client->sessions.size()));
    const std::string id = client->sessions[i];
    client->sessions.erase(client->sessions.begin() + i);
    const absl::Status status = store_->CloseSession(client->id, id, model_.Epoch(id));
    if (!status.ok()) return Fail(absl::StrCat("CloseSession: ", status.message()));
    Trace("close ", id);
    model_.Closed(id);
  }
  void DeleteSession() {
    const std::string name = RandomName();
    const absl::Status status = store_->DeleteSession(name);
    if (status.ok() != (model_.Exists(name) && !model_.IsOpen(name))) {
      return Fail(absl::StrCat("DeleteSession ", name, ": ", status.message()));
    }
    if (!status.ok()) return;
    Trace("delete ", name);
    model_.Deleted(name);
    NoteSaved(name);
  }
  void ForkSession() {
    const std::string from = RandomName(), to = RandomName();
    const absl::Status status = store_->ForkSession(from, to);
    if (status.ok() != (model_.HasTokens(from) && !model_.Exists(to))) {
      return Fail(absl::StrCat("ForkSession ", from, " ", to, ": ", status.message()));
    }
    if (!status.ok()) return;
    Trace("fork ", from, " to ", to);
    model_.Forked(from, to);
    NoteSaved(to);
  }
  void PinSession() {
    const std::string name = RandomName();
    const bool pinned = Chance(50);
    const absl::Status status = store_->PinSession(name, pinned);
    if (has_budget_ && absl::IsResourceExhausted(status)) return;  // the quota's own tests say when
    if (status.ok() != model_.Exists(name)) Fail(absl::StrCat("PinSession ", name, ": ", status.message()));
    if (status.ok()) model_.Pinned(name, pinned);
  }
  absl::StatusOr<StoredTokens> Tokens(const std::string& name) {
    const auto stored = store_->GetSession(name);
    if (!stored.ok()) return stored.status();
    return ReadTokens(*stored, tier());
  }
  void GetSession() {
    const std::string name = RandomName();
    const auto stored = Tokens(name);
    if (stored.ok() != model_.HasTokens(name)) return Fail(absl::StrCat("GetSession ", name));
    if (stored.ok() && stored->token_ids != model_.SessionTokens(name)) Fail("GetSession gave other tokens");
  }
  void LeaveAndReturn(Client* client) {
    Trace("client ", client->id, " dies");
    store_->QuarantineClient(client->id);
    for (const std::string& id : client->sessions) model_.Closed(id);
    departed_.push_back({client->id, std::move(client->holds), {}});
    Attach(client);
  }
  void FreeDeparted() {
    if (departed_.empty()) return;
    for (const auto& [slot, hold] : departed_.back().holds) {
      if (!Matches(slot, hold)) Fail("a slot was reused while its dead client mapped it");
    }
    store_->FreeClient(departed_.back().id);
    departed_.pop_back();
  }
  // A bit flips in RAM.
  void DamageRam() {
    for (Client& client : clients_) {
      if (client.holds.empty()) continue;
      const auto [slot, hold] = *client.holds.begin();
      return Spoil(slot, hold.chunk);
    }
  }

  void Step() {
    Client* client = &clients_[Pick(kClients)];
    const uint32_t what = Pick(1000);
    if (what < 120) OpenSession(client);
    else if (what < 330) Commit(client);
    else if (what < 480) Fetch(client);
    else if (what < 580) FinishRead();
    else if (what < 720) FinishWrite();
    else if (what < 790) Release(client);
    else if (what < 860) UpdateSession(client);
    else if (what < 900) CloseSession(client);
    else if (what < 920) DeleteSession();
    else if (what < 930) ForkSession();
    else if (what < 935) PinSession();
    else if (what < 950) GetSession();
    else if (what < 962) store_->DropRam();
    else if (what < 968) LeaveAndReturn(client);
    else if (what < 975) FreeDeparted();
    else if (what < 982) now_ += static_cast<int64_t>(Pick(2000000000)) - 1000000000;
    else if (what < 985) DamageRam();
    else if (what < 988) Quiesce();
    else if (what < 991) DamageOnDisk(RandomChunk());
    else if (what < 995) Restart(/*clean=*/true);
    else Restart(/*clean=*/false);
    if (error_.empty()) CheckAlways();
  }

  // --- What must hold ---
  template <typename F>
  void ForEachHold(F&& visit) {
    for (const Client& client : clients_) {
      for (const auto& [slot, hold] : client.holds) visit(slot, hold);
    }
    for (const Client& client : departed_) {
      for (const auto& [slot, hold] : client.holds) visit(slot, hold);
    }
  }
  void CheckUnheld(const std::vector<uint32_t>& slots) {
    ForEachHold([&](uint32_t slot, const Hold&) {
      if (std::find(slots.begin(), slots.end(), slot) != slots.end()) Fail("a held slot was handed out");
    });
  }
  // Refused only where there is a reason that goes away: something is held, dirty, being read or reserved.
  void CheckRefusal() {
    bool held = !reads_.empty() || job_.has_value() || store_->HasPendingWrites();
    ForEachHold([&](uint32_t, const Hold&) { held = true; });
    if (!held) Fail("refused with an idle disk and nothing held");
  }
  void CheckAlways() {
    ForEachHold([&](uint32_t slot, const Hold& hold) {
      if (!Matches(slot, hold)) Fail(absl::StrCat("held slot ", slot, " has changed"));
    });
    const StoreStats stats = store_->stats();
    uint64_t slots = 0;
    for (uint64_t n : stats.slots) slots += n;
    if (slots != kSlots) Fail("slots do not add up");
    if (stats.sessions != model_.SessionCount()) Fail("another number of sessions than the model has");
  }
  // With nothing under way: the disk has what the sessions refer to, and nothing else.
  void CheckDisk() {
    const std::set<ChunkHash> referred = model_.Referred();
    for (const ChunkHash& chunk : disk_->ChunksWithBlocks()) {
      if (referred.count(chunk) == 0) return Fail("blocks of a chunk that no session refers to stay on disk");
    }
    for (const ChunkHash& chunk : disk_->ChunkRecords()) {
      if (referred.count(chunk) == 0) return Fail("the record of a chunk that no session refers to stays on disk");
    }
    for (const ChunkHash& chunk : referred) {
      if (model_.MustBeWhole(chunk) && !disk_->HasChunk(chunk)) return Fail("a chunk of a session is not on disk");
    }
    const auto names = disk_->SessionNames();
    if (std::set<std::string>(names.begin(), names.end()) != model_.SavedNames()) Fail("other sessions are on disk");
  }
  void CheckRecovered() {
    std::map<std::string, StoredTokens> sessions;
    for (const SessionView& view : store_->ListSessions()) {
      const auto stored = Tokens(view.name);
      if (!stored.ok()) return Fail("a recovered session has no tokens");
      sessions[view.name] = *stored;
    }
    for (uint32_t i = 0; i < 5; ++i) {
      const std::string name = absl::StrCat("s", i);
      const auto found = sessions.find(name);
      const std::string wrong = model_.Recover(name, found == sessions.end() ? nullptr : &found->second.token_ids);
      if (!wrong.empty()) return Fail(wrong);
    }
    model_.FinishRecovery();
    for (const SessionView& view : store_->ListSessions()) model_.Pinned(view.name, view.pinned);
    ReadAllBack();
  }
  // Each chunk that was acknowledged durable and that a session has comes back, in its own bytes.
  void ReadAllBack() {
    for (const ChunkHash& chunk : model_.Referred()) {
      for (uint32_t layer = 0; layer < model_.geometry().layers; ++layer) {
        FetchOutcome got;
        const auto take = [&](std::vector<FetchOutcome> out) { got = std::move(out[0]); };
        const auto reads = store_->Fetch(clients_[0].id, {{chunk, layer}}, take);
        if (!reads.ok()) return Fail(absl::StrCat("Fetch: ", reads.status().message()));
        for (const DiskRead& read : *reads) Read(read, absl::OkStatus());
        if (got.status.ok()) {
          if (memory_[got.slot] != model_.Bytes(chunk, layer)) return Fail("wrong bytes after a restart");
          if (!store_->Release(clients_[0].id, {got.slot}).ok()) return Fail("Release");
        } else if (model_.MustBeWhole(chunk)) {
          return Fail(absl::StrCat("a durable chunk is gone: ", got.status.message()));
        }
        NoteLoss(chunk);
      }
    }
  }

  const SimulationOptions options_;
  SimulationCounts* const counts_;
  std::mt19937_64 random_;
  StoreModel model_;
  const bool has_packed_ = options_.seed % 2 == 0, has_budget_ = options_.seed % 3 == 0;
  const std::shared_ptr<MemoryTier> disk_ = std::make_shared<MemoryTier>(has_packed_ ? KvDtype::kInt8 : KvDtype::kBf16);
  std::unique_ptr<PackedTier> packed_;  // as long as the store runs
  std::vector<std::vector<uint8_t>> memory_;
  std::unique_ptr<BlockStore> store_;
  Client clients_[kClients];
  std::vector<Client> departed_;
  ClientId next_client_ = 1;
  int64_t now_ = 1700000000;
  std::optional<WriteJob> job_;
  std::vector<ChunkHash> rejected_;
  std::set<std::pair<ChunkHash, uint64_t>> spoiled_;  // commits whose bytes were changed
  std::vector<DiskRead> reads_;
  uint32_t step_ = 0;
  std::string error_;
};

}  // namespace

std::string RunSimulation(const SimulationOptions& options, SimulationCounts* counts) {
  return Simulation(options, counts).Run();
}

}  // namespace hga
