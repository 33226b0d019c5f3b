#include "gpu_worker/engine/step_loop.h"

#include <algorithm>
#include <chrono>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace hga {
namespace {

// How long the thread sleeps at most with sequences under way: bounds how late a cancellation is seen.
constexpr std::chrono::milliseconds kNap(20);
constexpr uint32_t kCheckpointChunks = 16;

AttendShapes ShapesOf(const EngineModel& model, const EngineOptions& options) {
  const uint32_t chunk = model.geometry.chunk_tokens;
  return {{model.geometry, options.sink_tokens, options.prefill_window_tokens / chunk},
          {model.geometry, options.sink_tokens, options.window_tokens / chunk},
          options.dense_prefill_tokens};
}

}  // namespace

StepLoop::StepLoop(const EngineModel& model, const EngineOptions& options, Backend* backend, KvClient* store,
                   RouterLink* link, EngineMetrics* metrics, StepTrace* trace)
    : model_(model), options_(options), shapes_(ShapesOf(model, options)), backend_(backend), store_(store),
      link_(link), metrics_(metrics), trace_(trace) {
  runner_ = std::make_unique<StepRunner>(
      backend, store, link, metrics, trace, shapes_, options.early_selection, options.key_cache_bytes,
      [this](uint64_t tick, uint32_t wanted) {
        NoteShortage();
        return MakeRoom(tick, wanted);
      });
  SealerOptions sealer;
  sealer.shape = shapes_.prefill;
  sealer.model = model.fingerprint;
  sealer.context_tokens = model.context_tokens;
  sealer.method = *FindSummaryMethod(options.summary_method);
  sealer_ = std::make_unique<Sealer>(sealer, store, link, [this](SealerEvent event) {
    std::lock_guard<std::mutex> lock(mu_);
    answers_.push_back(std::move(event));
    changed_.notify_one();
  });
  thread_ = std::thread([this] { Loop(); });
}

StepLoop::~StepLoop() {
  Stop();
  thread_.join();
  sealer_.reset();
}

absl::Status StepLoop::Submit(std::shared_ptr<const EngineRequest> request, std::shared_ptr<EventStream> events) {
  std::lock_guard<std::mutex> lock(mu_);
  if (stopping_) return absl::UnavailableError("the worker is shutting down");
  if (live_ >= options_.max_sequences + options_.max_waiting) {
    return absl::ResourceExhaustedError(absl::StrCat(live_, " requests are under way or waiting; try again later"));
  }
  ++live_;
  submitted_.push_back({std::move(request), std::move(events), absl::Now()});
  changed_.notify_one();
  return absl::OkStatus();
}

void StepLoop::Stop() {
  std::lock_guard<std::mutex> lock(mu_);
  stopping_ = true;
  changed_.notify_one();
}

void StepLoop::Loop() {
  for (;;) {
    TakeWork();
    {
      std::lock_guard<std::mutex> lock(mu_);
      if (stopping_ && live_ == 0) return;
    }
    const bool worked = RunStep();
    if (trace_ != nullptr) {
      const StepTrace::Span span(trace_, "trace");
      trace_->Write();
    }
    std::unique_lock<std::mutex> lock(mu_);
    const auto has_work = [&] { return !answers_.empty() || !submitted_.empty() || (stopping_ && live_ == 0); };
    if (worked || has_work()) continue;
    if (active_.empty() && waiting_.empty() && !stopping_) {
      changed_.wait(lock, [&] { return has_work() || stopping_; });
    } else {
      changed_.wait_for(lock, kNap, has_work);
    }
  }
}

void StepLoop::TakeWork() {
  const StepTrace::Span span(trace_, "take_work");
  std::deque<SealerEvent> answers;
  {
    std::lock_guard<std::mutex> lock(mu_);
    answers.swap(answers_);
    for (Pending& pending : submitted_) waiting_.push_back(std::move(pending));
    submitted_.clear();
  }
  for (SealerEvent& event : answers) Handle(std::move(event));
  CheckCancelled();
  Activate();
  if (const uint32_t asked_back = store_->TakeReclaim(); asked_back > 0) MakeRoom(runner_->tick() + 1, asked_back);
  for (const SequencePtr& s : active_) {
    FollowRouter(s.get());
    CutBack(s.get());
    ReserveAhead(s.get());
    if (s->state == Sequence::State::kEnding && s->seals_pending == 0) Save(s.get());
  }
  metrics_->SetRequests(active_.size(), waiting_.size());
  metrics_->SetAttached(link_->attached(), store_->connected());
}

void StepLoop::Activate() {
  while (!waiting_.empty() && active_.size() < options_.max_sequences) {
    Pending next = std::move(waiting_.front());
    waiting_.pop_front();
    active_.push_back(std::make_unique<Sequence>(next_id_++, model_.geometry.layers, next.request, next.events));
    active_.back()->accepted = next.accepted;
    sealer_->Open(active_.back()->id, next.request);
  }
}

void StepLoop::CheckCancelled() {
  bool stopping = false;
  {
    std::lock_guard<std::mutex> lock(mu_);
    stopping = stopping_;
  }
  const absl::Status stop = absl::UnavailableError("the worker is shutting down; what is complete was kept");
  for (const SequencePtr& s : active_) {
    const absl::Status why = stopping ? stop : s->events->cancelled();
    if (!why.ok() && s->state == Sequence::State::kRunning) End(s.get(), why);
  }
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    const absl::Status why = stopping ? stop : it->events->cancelled();
    if (why.ok()) {
      ++it;
      continue;
    }
    EngineEvent event;
    event.status = why;
    metrics_->CountFailure(why.code());
    it->events->Push(std::move(event));
    it = waiting_.erase(it);
    std::lock_guard<std::mutex> lock(mu_);
    --live_;
  }
}

// Batches end at absolute multiples of the batch size, so that they are cut the same however much was reused.
uint32_t StepLoop::NextRows(const Sequence& s) const {
  if (s.decoding() || s.state == Sequence::State::kFlushing) return 1;
  const uint32_t batch = options_.prefill_batch_tokens;
  const uint32_t end = std::min((s.computed / batch + 1) * batch, s.target(model_.geometry.chunk_tokens));
  return end > s.computed ? end - s.computed : 0;
}

// Gives reserved blocks to the chunks that the next `rows` tokens are written to.
bool StepLoop::Cover(Sequence* s, uint32_t rows) {
  const uint32_t chunk_tokens = model_.geometry.chunk_tokens;
  for (uint32_t chunk = s->computed / chunk_tokens; chunk <= (s->computed + rows - 1) / chunk_tokens; ++chunk) {
    if (s->blocks.HasChunk(chunk)) continue;
    if (s->spare.empty()) return false;
    s->blocks.PutChunk(chunk, std::move(s->spare.front()), runner_->tick());
    s->spare.pop_front();
  }
  return true;
}

bool StepLoop::Ready(Sequence* s, uint32_t rows) {
  const bool runs = s->state == Sequence::State::kRunning || s->state == Sequence::State::kFlushing;
  if (!runs || s->cut_to.has_value() || rows == 0) return false;
  const uint32_t last_chunk = (s->computed + rows - 1) / model_.geometry.chunk_tokens;
  const ChunkRange routed = RoutedChunks(ShapeOf(*s), last_chunk);
  if (s->request->routed && !s->fallback && !routed.empty() && s->acked < routed.end) return false;
  const uint32_t bound = options_.max_dense_tokens;
  if (s->fallback && bound > 0 && s->computed + rows > bound) {
    End(s, absl::UnavailableError(absl::StrCat("there is no router, and a sequence of more than ", bound,
                                               " tokens (--max_dense_tokens) is not attended densely")));
    return false;
  }
  return Cover(s, rows);
}

// The next sequence after the one prefilled last, in the order they came.
std::vector<StepPart> StepLoop::PickPrefill() {
  std::vector<Sequence*> order;
  for (const SequencePtr& s : active_) order.push_back(s.get());
  std::stable_partition(order.begin(), order.end(), [&](Sequence* s) { return s->id > prefill_turn_; });
  for (Sequence* s : order) {
    if (s->decoding() || s->state == Sequence::State::kFlushing) continue;
    const uint32_t rows = NextRows(*s);
    if (!Ready(s, rows)) continue;
    StepPart part;
    part.sequence = s;
    part.rows = rows;
    part.want_logits = s->request->max_tokens > 0 && s->computed + rows == s->tokens.size();
    prefill_turn_ = s->id;
    return {part};
  }
  return {};
}

std::vector<StepPart> StepLoop::PickDecode() {
  std::vector<StepPart> parts;
  for (const SequencePtr& s : active_) {
    const bool flushing = s->state == Sequence::State::kFlushing;
    if ((!s->decoding() && !flushing) || !Ready(s.get(), 1)) continue;
    StepPart part;
    part.sequence = s.get();
    part.rows = 1;
    part.want_logits = !flushing;
    parts.push_back(part);
  }
  return parts;
}

std::vector<StepPart> StepLoop::PickStep() {
  const StepTrace::Span span(trace_, "pick_step");
  std::vector<StepPart> parts = prefilled_last_ ? PickDecode() : PickPrefill();
  const bool first_choice = !parts.empty();
  if (parts.empty()) parts = prefilled_last_ ? PickPrefill() : PickDecode();
  if (!parts.empty() && first_choice) prefilled_last_ = !prefilled_last_;
  return parts;
}

bool StepLoop::RunStep() {
  std::vector<StepPart> parts = PickStep();
  if (parts.empty()) return false;
  const bool decodes = parts[0].sequence->answering();
  const StepTrace::Span whole(trace_, decodes ? "decode" : "prefill",
                              {"rows", decodes ? parts.size() : parts[0].rows, "position",
                               parts[0].sequence->computed});
  if (!store_->connected()) room_blocks_ = UINT64_MAX;  // the next one may have more
  runner_->UseKeyCache(BlocksOfAll() > room_blocks_);
  const absl::Time begin = absl::Now();
  const absl::Status status = runner_->Run(&parts, &logits_);
  metrics_->ObserveStep(decodes, absl::ToDoubleSeconds(absl::Now() - begin));
  if (!status.ok()) LogError("a step failed", {{"error", status.message()}});
  const StepTrace::Span finish(trace_, "finish");
  for (StepPart& part : parts) {
    if (!status.ok()) part.status = status;
    FinishPart(part);
  }
  return true;
}

void StepLoop::FinishPart(const StepPart& part) {
  Sequence* s = part.sequence;
  if (part.lost_chunk.has_value()) {
    s->cut_to = part.lost_chunk;
    return;
  }
  if (s->state == Sequence::State::kFlushing) {
    s->state = Sequence::State::kEnding;
    if (!part.status.ok()) return;  // the answer is whole; the session lacks its last token
    s->computed += part.rows;
    return SealComplete(s);
  }
  if (!part.status.ok()) return End(s, part.status);
  absl::StatusOr<uint32_t> token = 0;
  if (part.want_logits) {
    StepTrace::Span span(trace_, "sample");
    token = Sample(part);
  }
  if (!token.ok()) return End(s, token.status());  // before anything of this step is sealed
  const uint32_t last_chunk = (s->computed + part.rows - 1) / model_.geometry.chunk_tokens;
  const bool routes = !RoutedChunks(ShapeOf(*s), last_chunk).empty();
  if (s->fallback) Warn(s, "the router is away: attention was dense");
  if (s->fallback && routes) {
    ++s->stats.dense_fallback_steps;
    metrics_->CountFallbackStep();
  }
  const bool decoded = s->decoding();
  s->computed += part.rows;
  SealComplete(s);
  if (decoded) {
    ++s->stats.decode_steps;
  } else {
    metrics_->CountPrefill(part.rows);
    EngineEvent progress;
    progress.kind = EngineEvent::Kind::kProgress;
    progress.done = std::min(s->computed, s->prompt_tokens) - s->stats.reused_tokens;
    progress.total = s->prompt_tokens - s->stats.reused_tokens;
    if (!s->answering()) s->events->Push(std::move(progress));
  }
  if (part.want_logits) {
    StepTrace::Span span(trace_, "hand_out");
    TakeToken(s, *token);
  } else if (NextRows(*s) == 0) {
    End(s, absl::OkStatus(), FinishReason::kPrefillOnly);
  }
}

bool StepLoop::Checkpoint(const Sequence& s, uint32_t chunk) const {
  if (s.request->append) return false;  // a half-read turn must not replace what the session holds
  return (chunk + 1) % kCheckpointChunks == 0 || chunk + 1 == s.prompt_tokens / model_.geometry.chunk_tokens;
}

void StepLoop::SealComplete(Sequence* s) {
  const uint32_t chunk_tokens = model_.geometry.chunk_tokens;
  while (s->hashes.size() < s->computed / chunk_tokens) {
    SealTask task;
    task.sequence_id = s->id;
    task.chunk = static_cast<uint32_t>(s->hashes.size());
    const auto begin = s->tokens.begin() + task.chunk * chunk_tokens;
    task.token_ids.assign(begin, begin + chunk_tokens);
    task.parent = s->hashes.empty() ? SeedHash(model_.fingerprint, model_.geometry) : s->hashes.back();
    task.hash = NextChunkHash(task.parent, task.token_ids);
    task.blocks = s->blocks.Lend(task.chunk);
    task.checkpoint = Checkpoint(*s, task.chunk);
    s->hashes.push_back(task.hash);
    ++s->seals_pending;
    sealer_->Seal(std::move(task));
  }
}

void StepLoop::TakeToken(Sequence* s, uint32_t token) {
  const absl::Time now = absl::Now();
  if (s->stats.completion_tokens == 0) {
    s->stats.ttft_s = absl::ToDoubleSeconds(now - s->accepted);
    s->stats.prefill_s = absl::ToDoubleSeconds(now - s->started);
    s->first_token = now;
    metrics_->ObserveFirstToken(s->stats.ttft_s);
  } else {
    const double since = absl::ToDoubleSeconds(now - s->first_token);
    metrics_->ObserveToken(since - s->stats.decode_s);
    s->stats.decode_s = since;
  }
  s->tokens.push_back(token);
  ++s->stats.completion_tokens;
  const bool ends = !s->request->ignore_eos && std::find(model_.end_tokens.begin(), model_.end_tokens.end(), token) !=
                                                   model_.end_tokens.end();
  EngineEvent event;
  event.kind = EngineEvent::Kind::kToken;
  event.token = token;
  if (!ends) event.text = s->text.Add(model_.token_bytes(token));
  const bool full = s->stats.completion_tokens >= s->request->max_tokens || s->tokens.size() >= model_.context_tokens;
  if (ends || full) event.text += s->text.Flush();
  s->events->Push(std::move(event));
  if (ends || s->text.stopped()) {
    End(s, absl::OkStatus(), FinishReason::kStop);
  } else if (full) {
    End(s, absl::OkStatus(), FinishReason::kLength);
  }
}

void StepLoop::End(Sequence* s, const absl::Status& status, FinishReason reason) {
  s->end = status;
  s->reason = reason;
  s->cut_to.reset();
  // A manifest's tail is shorter than a chunk: a last token that would fill it is computed too.
  const bool kept = !s->request->session.empty() && s->answering() && !absl::IsResourceExhausted(status);
  const bool one_short = s->computed + 1 == s->tokens.size() && s->tokens.size() % model_.geometry.chunk_tokens == 0;
  const bool usable = status.ok() || absl::IsCancelled(status) || absl::IsDeadlineExceeded(status);
  s->state = kept && one_short && usable ? Sequence::State::kFlushing : Sequence::State::kEnding;
}

void StepLoop::Save(Sequence* s) {
  const uint32_t chunk_tokens = model_.geometry.chunk_tokens;
  const size_t first = size_t{s->committed} * chunk_tokens;
  const size_t end = std::min(s->tokens.size(), first + chunk_tokens - 1);
  std::vector<uint32_t> tail(s->tokens.begin() + first, s->tokens.begin() + std::max(first, end));
  // A turn that was cut off before its answer leaves the session as it was.
  const bool save = s->end.ok() || s->answering() || !s->request->append;
  s->state = Sequence::State::kClosing;
  sealer_->Close(s->id, save, s->committed, std::move(tail));
}

void StepLoop::Warn(Sequence* s, const std::string& warning) {
  auto& warnings = s->stats.warnings;
  if (std::find(warnings.begin(), warnings.end(), warning) == warnings.end()) warnings.push_back(warning);
}

uint64_t StepLoop::BlocksOfAll() const {
  uint64_t chunks = 0;
  for (const SequencePtr& s : active_) chunks += s->computed / model_.geometry.chunk_tokens;
  return chunks * model_.geometry.layers;
}

// A step asks for blocks and there is no slot. While keys are cached blocks are not held for long, so that the number of
// those held says nothing.
void StepLoop::NoteShortage() {
  if (BlocksOfAll() > room_blocks_) return;
  room_blocks_ = 0;
  for (const SequencePtr& s : active_) {
    room_blocks_ += s->blocks.Held(0, s->computed / model_.geometry.chunk_tokens).size();
  }
}

// Least recently used first. Never of a sink or window, nor what the layer at `tick` uses. When nothing else is left:
// what was reserved ahead.
uint32_t StepLoop::MakeRoom(uint64_t tick, uint32_t wanted) {
  struct Candidate {
    BlockSet::Use use;
    Sequence* sequence;
  };
  std::vector<Candidate> candidates;
  for (const SequencePtr& s : active_) {
    const ChunkRange optional = OptionalChunks(shapes_.prefill, s->computed / model_.geometry.chunk_tokens);
    if (optional.empty()) continue;
    for (const BlockSet::Use& use : s->blocks.Held(optional.first, optional.end)) {
      if (use.last_step < tick) candidates.push_back({use, s.get()});
    }
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return std::tie(a.use.last_step, a.sequence->id, a.use.chunk, a.use.layer) <
           std::tie(b.use.last_step, b.sequence->id, b.use.chunk, b.use.layer);
  });
  // Releasing a quarter at least: else each step of a tight arena would come back for more.
  const size_t count = std::min(candidates.size(), std::max<size_t>(wanted, candidates.size() / 4));
  for (size_t i = 0; i < count; ++i) {
    candidates[i].sequence->blocks.Release(candidates[i].use.chunk, candidates[i].use.layer);
  }
  metrics_->CountGivenBack(count);
  if (count > 0) return static_cast<uint32_t>(count);
  uint32_t released = 0;
  for (const SequencePtr& s : active_) {
    released += static_cast<uint32_t>(s->spare.size()) * model_.geometry.layers;
    s->spare.clear();
  }
  std::lock_guard<std::mutex> lock(mu_);
  for (SealerEvent& event : answers_) {
    if (event.kind != SealerEvent::Kind::kReserved || !event.status.ok()) continue;
    released += static_cast<uint32_t>(event.blocks.size());
    event.blocks.clear();
    event.status = absl::ResourceExhaustedError("given up for blocks that a step needed");
  }
  return released;
}

}  // namespace hga
