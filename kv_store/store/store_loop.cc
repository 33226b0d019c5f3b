#include "kv_store/store/store_loop.h"

#include <unistd.h>

#include <algorithm>
#include <random>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/cores.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace hga {
namespace {

constexpr size_t kQueued = 1 << 20;  // bounded by calls in flight and slots, far below this
constexpr size_t kReadBatch = 32;
constexpr std::chrono::milliseconds kQuarantinePoll(5);
constexpr std::chrono::milliseconds kMetricsPeriod(200);
constexpr std::chrono::milliseconds kWriteRetry(500);
constexpr std::chrono::seconds kDurableWait(30);

uint64_t RandomId() {
  std::random_device device;
  return ((static_cast<uint64_t>(device()) << 32) | device()) >> 1 | 1;
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

StoreLoop::StoreLoop(const StoreLoopOptions& options, std::unique_ptr<KvTier> tier,
                     std::shared_ptr<prometheus::Registry> registry)
    : options_(options),
      generation_(RandomId()),
      tier_(std::move(tier)),
      metrics_(std::move(registry)),
      store_(options.store),
      next_client_(RandomId()) {
  executor_ = std::make_unique<SerialExecutor>(kQueued);
  writer_ = std::make_unique<SerialExecutor>(kQueued);
  for (uint32_t i = 0; i < std::max(1u, options.read_threads); ++i) {
    readers_.push_back(std::make_unique<SerialExecutor>(kQueued));
  }
  ticker_ = std::thread([this] { Tick(); });
}

absl::StatusOr<std::unique_ptr<StoreLoop>> StoreLoop::Start(const StoreLoopOptions& options,
                                                            std::unique_ptr<KvTier> tier,
                                                            std::shared_ptr<prometheus::Registry> registry) {
  std::unique_ptr<StoreLoop> loop(new StoreLoop(options, std::move(tier), std::move(registry)));
  HGA_RETURN_IF_ERROR(loop->OnStore([&]() -> absl::Status {
    HGA_RETURN_IF_ERROR(loop->store_.Load(loop->tier_.get()));
    const auto geometry = loop->tier_->GetGeometry();
    if (geometry.ok()) loop->geometry_ = *geometry;
    return absl::OkStatus();
  }));
  return loop;
}

StoreLoop::~StoreLoop() {
  {
    std::lock_guard<std::mutex> lock(mu_);
    stopping_ = true;
  }
  stop_changed_.notify_all();
  ticker_.join();
  // What these still have to report they post to the store's thread, which goes last; Pump starts nothing any
  // more.
  for (auto& reader : readers_) reader.reset();
  writer_.reset();
  executor_.reset();
  // Gives the memory back once the last client has let go; nobody else can have made a file of this name
  // meanwhile, because this arena was locked.
  if (arena_.has_value()) ::unlink(options_.arena_path.c_str());
}

// --- Background work ---

// After every change of the store: hand out the work that has become possible.
void StoreLoop::Pump() {
  {
    std::lock_guard<std::mutex> lock(mu_);
    if (stopping_) return;
  }
  if (!writes_fail_ || std::chrono::steady_clock::now() >= next_write_) {
    if (auto job = store_.TakeWrite(); job.has_value()) {
      auto shared = std::make_shared<WriteJob>(*std::move(job));
      writer_->Post([this, shared, g = geometry_.value_or(KvGeometry())] { WriteStepOnce(shared, g); });
    }
  }
  for (const auto& [id, slots] : store_.TakeReclaims()) seats_[id].mailbox->AskBack(slots);
  if (flush_waiters_.empty() || store_.HasPendingWrites()) return;
  const auto waiters = std::move(flush_waiters_);
  flush_waiters_.clear();
  for (const auto& waiter : waiters) waiter();
}

void StoreLoop::WriteStepOnce(std::shared_ptr<WriteJob> job, const KvGeometry& geometry) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<ChunkHash> rejected = RejectDamaged(geometry, &job->step);
  const absl::Status status = tier_->Write(job->step);
  status.ok() ? metrics_.ObserveWrite(SecondsSince(start)) : metrics_.CountWriteError();
  executor_->Post([this, job, rejected, status] {
    if (status.ok()) {
      store_.FinishWrite(rejected);
      if (std::exchange(writes_fail_, false)) LogInfo("write-back works again", {});
    } else {
      if (!std::exchange(writes_fail_, true)) {
        LogError("write-back failed, retrying", {{"error", status.message()}});
      }
      store_.FailWrite(job->step, status);
      next_write_ = std::chrono::steady_clock::now() + kWriteRetry;
    }
    Pump();
  });
}

// Neighbours in one batch: blocks of one chunk were written together, so the tier reads them together. What waits for
// the disk is spread over all readers; what is unpacked from RAM over as many as there are cores, since waking another
// takes longer than a block.
void StoreLoop::StartReads(std::vector<DiskRead> reads) {
  std::sort(reads.begin(), reads.end(), [](const DiskRead& a, const DiskRead& b) {
    return std::tie(a.name.chunk, a.name.layer) < std::tie(b.name.chunk, b.name.layer);
  });
  const auto disk = std::stable_partition(reads.begin(), reads.end(),
                                          [this](const DiskRead& read) { return tier_->IsInRam(read.name); });
  const auto in_ram = static_cast<size_t>(disk - reads.begin());
  const auto all = absl::MakeConstSpan(reads);
  Spread(all.subspan(0, in_ram), std::min<size_t>(readers_.size(), Cores()));
  Spread(all.subspan(in_ram), readers_.size());
}

void StoreLoop::Spread(absl::Span<const DiskRead> reads, size_t ways) {
  const size_t share = (reads.size() + ways - 1) / ways;
  const size_t at_once = std::min(kReadBatch, std::max<size_t>(1, share));
  for (; !reads.empty(); reads.remove_prefix(std::min(at_once, reads.size()))) {
    std::vector<BlockRead> batch;
    std::vector<uint32_t> slots;
    for (const DiskRead& read : reads.subspan(0, at_once)) {
      batch.push_back({read.name, store_.slot_memory(read.slot)});
      batch.back().heads = read.heads;
      slots.push_back(read.slot);
    }
    SerialExecutor* reader = readers_[next_reader_++ % readers_.size()].get();
    reader->Post([this, batch = std::move(batch), slots = std::move(slots)] { ReadBatch(batch, slots); });
  }
}

void StoreLoop::ReadBatch(std::vector<BlockRead> batch, const std::vector<uint32_t>& slots) {
  const auto start = std::chrono::steady_clock::now();
  tier_->ReadBlocks(absl::MakeSpan(batch));
  if (!std::all_of(batch.begin(), batch.end(), [](const BlockRead& read) { return read.from_ram; }))
    metrics_.ObserveDiskRead(SecondsSince(start));
  executor_->Post([this, batch = std::move(batch), slots] {
    for (size_t i = 0; i < slots.size(); ++i)
      store_.FinishRead(slots[i], batch[i].status, batch[i].checksum, batch[i].from_ram);
    Pump();
  });
}

void StoreLoop::Tick() {
  std::unique_lock<std::mutex> lock(mu_);
  auto next_metrics = std::chrono::steady_clock::now();
  while (!stopping_) {
    lock.unlock();
    const auto now = std::chrono::steady_clock::now();
    const bool refresh = now >= next_metrics;
    if (refresh) next_metrics = now + kMetricsPeriod;
    const TierStats tier = refresh ? tier_->Stats() : TierStats();
    executor_->Run([&] {
      PollQuarantine();
      Pump();
      if (refresh) metrics_.Update(store_.stats(), tier);
    });
    lock.lock();
    const bool polling = quarantine_;
    stop_changed_.wait_for(lock, polling ? kQuarantinePoll : kMetricsPeriod,
                           [&] { return stopping_ || quarantine_ != polling; });
  }
}

// --- Calls ---

// With commit_waits_for_disk a change of sessions is durable when it is answered.
absl::Status StoreLoop::SaveOnStore(absl::FunctionRef<absl::Status()> change) {
  auto saved = std::make_shared<std::promise<absl::Status>>();
  auto future = saved->get_future();
  HGA_RETURN_IF_ERROR(OnStore([&] {
    absl::Status status = change();
    if (status.ok() && options_.commit_waits_for_disk) {
      store_.WhenSaved([saved](absl::Status s) { saved->set_value(std::move(s)); });
    }
    return status;
  }));
  if (!options_.commit_waits_for_disk) return absl::OkStatus();
  if (future.wait_for(kDurableWait) == std::future_status::ready) return future.get();
  return absl::UnavailableError("the disk did not take the change within 30 s; it is made but not durable");
}

absl::StatusOr<OpenOutcome> StoreLoop::OpenSession(ClientId client, const std::string& name,
                                                   const ModelFingerprint& model,
                                                   const std::vector<ChunkHash>& chunks) {
  return OnStore([&] { return store_.OpenSession(client, name, model, chunks); });
}

absl::Status StoreLoop::UpdateSession(ClientId client, const std::string& session_id, uint64_t epoch,
                                      std::vector<ChunkHash> chunks, std::vector<uint32_t> tail_tokens) {
  return SaveOnStore([&] {
    return store_.UpdateSession(client, session_id, epoch, std::move(chunks), std::move(tail_tokens));
  });
}

absl::Status StoreLoop::CloseSession(ClientId client, const std::string& session_id, uint64_t epoch) {
  return OnStore([&] { return store_.CloseSession(client, session_id, epoch); });
}

absl::StatusOr<StoredTokens> StoreLoop::GetSession(const std::string& name) {
  HGA_ASSIGN_OR_RETURN(const StoredSession session, OnStore([&] { return store_.GetSession(name); }));
  return ReadTokens(session, tier_.get());
}

std::vector<SessionView> StoreLoop::ListSessions() {
  return OnStore([&] { return store_.ListSessions(); });
}

absl::Status StoreLoop::DeleteSession(const std::string& name) {
  return SaveOnStore([&] { return store_.DeleteSession(name); });
}

absl::Status StoreLoop::ForkSession(const std::string& from, const std::string& to) {
  return SaveOnStore([&] { return store_.ForkSession(from, to); });
}

absl::Status StoreLoop::PinSession(const std::string& name, bool pinned) {
  return SaveOnStore([&] { return store_.PinSession(name, pinned); });
}

absl::StatusOr<std::vector<uint32_t>> StoreLoop::Reserve(ClientId client, uint32_t count) {
  return OnStore([&] { return store_.Reserve(client, count); });
}

absl::StatusOr<CommitOutcome> StoreLoop::Commit(ClientId client, CommitArgs args) {
  auto durable = std::make_shared<std::promise<absl::Status>>();
  auto future = durable->get_future();
  const ChunkHash hash = args.hash;
  auto outcome = OnStore([&] {
    auto result = store_.Commit(client, std::move(args));
    if (result.ok() && options_.commit_waits_for_disk) {
      store_.WhenDurable(hash, [durable](absl::Status status) { durable->set_value(std::move(status)); });
    }
    return result;
  });
  if (!outcome.ok() || !options_.commit_waits_for_disk) return outcome;
  if (future.wait_for(kDurableWait) != std::future_status::ready) {
    return absl::UnavailableError(
        "the disk did not take the chunk within 30 s; it is committed but not durable");
  }
  HGA_RETURN_IF_ERROR(future.get());
  return outcome;
}

absl::StatusOr<std::vector<FetchOutcome>> StoreLoop::Fetch(ClientId client,
                                                           const std::vector<BlockHeads>& wanted) {
  const auto start = std::chrono::steady_clock::now();
  auto settled = std::make_shared<std::promise<std::vector<FetchOutcome>>>();
  auto future = settled->get_future();
  HGA_RETURN_IF_ERROR(OnStore([&]() -> absl::Status {
    HGA_ASSIGN_OR_RETURN(std::vector<DiskRead> reads,
                         store_.Fetch(client, wanted, [settled](std::vector<FetchOutcome> results) {
                           settled->set_value(std::move(results));
                         }));
    StartReads(std::move(reads));
    return absl::OkStatus();
  }));
  auto results = future.get();
  metrics_.ObserveFetch(SecondsSince(start));
  return results;
}

absl::Status StoreLoop::Release(ClientId client, const std::vector<uint32_t>& slots) {
  return OnStore([&] { return store_.Release(client, slots); });
}

absl::StatusOr<SummaryRecord> StoreLoop::GetSummary(const ChunkHash& chunk) {
  HGA_ASSIGN_OR_RETURN(const auto in_ram, OnStore([&] { return store_.FindSummary(chunk); }));
  if (in_ram != nullptr) return *in_ram;
  return tier_->ReadSummary(chunk);
}

void StoreLoop::CheckBlock(const BlockName& name) {
  OnStore([&] {
    store_.CheckBlock(name);
    return true;
  });
}

StoreStats StoreLoop::GetStats() {
  return OnStore([&] { return store_.stats(); });
}

absl::Status StoreLoop::Compact(Compaction* compaction) {
  if (compacting_.exchange(true)) {
    return absl::ResourceExhaustedError("another compaction is under way; it covers what was deleted before it began");
  }
  // What was deleted until now is to be deleted on disk; if the disk is too slow for that, the rest is.
  auto saved = std::make_shared<std::promise<void>>();
  auto future = saved->get_future();
  OnStore([&] {
    store_.WhenSaved([saved](absl::Status) { saved->set_value(); });
    return true;
  });
  future.wait_for(kDurableWait);
  const uint64_t before = DiskStats().disk_bytes;
  const absl::Status status = tier_->Compact(compaction);
  LogInfo("compacted", {{"result", status.ToString()},
                        {"disk_bytes_before", before},
                        {"disk_bytes", DiskStats().disk_bytes}});
  compacting_ = false;
  return status;
}

absl::StatusOr<uint64_t> StoreLoop::Flush(bool drop_ram, std::chrono::milliseconds timeout) {
  auto dropped = std::make_shared<std::promise<uint64_t>>();
  auto future = dropped->get_future();
  executor_->Run([&] {
    flush_waiters_.push_back(
        [this, dropped, drop_ram] { dropped->set_value(drop_ram ? store_.DropRam() : 0); });
    Pump();
  });
  if (future.wait_for(timeout) == std::future_status::ready) return future.get();
  return absl::UnavailableError("not everything could be written to disk in time; see the log");
}

}  // namespace hga
