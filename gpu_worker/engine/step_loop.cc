#include "gpu_worker/engine/step_loop.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace hga {
namespace {

// How long the thread sleeps at most with sequences under way: bounds how late a cancellation is seen.
constexpr std::chrono::milliseconds kNap(20), kReclaimPoll(100);

AttendShapes ShapesOf(const EngineModel& model, const EngineOptions& options) {
  const uint32_t chunk = model.geometry.chunk_tokens;
  return {{model.geometry, options.sink_tokens, options.prefill_window_tokens / chunk, options.prefill_block_tokens},
          {model.geometry, options.sink_tokens, options.window_tokens / chunk},
          options.dense_prefill_tokens};
}

}  // namespace

StepLoop::StepLoop(const EngineModel& model, const EngineOptions& options, Backend* backend, KvClient* store,
                   RouterLink* link, EngineMetrics* metrics, StepTrace* trace)
    : model_(model), options_(options), shapes_(ShapesOf(model, options)), backend_(backend), store_(store),
      link_(link), metrics_(metrics), trace_(trace) {
  if (options.key_cache_bytes > 0) {
    keys_ = std::make_unique<KeyCache>(model_.geometry, options.key_cache_bytes,
                                       [this](uint32_t count) { return PagesForKeys(count); });
  }
  runner_ = std::make_unique<StepRunner>(
      backend, store, link, metrics, trace, shapes_, options.early_selection, keys_.get(),
      StepRoom{[this](uint64_t tick, uint32_t wanted, bool passing) {
                 NoteShortage();
                 return MakeRoom(tick, wanted, passing);
               },
               [this](uint32_t more) { return RoomToKeep() >= more; }});
  SealerOptions sealer;
  sealer.shape = shapes_.prefill;
  sealer.model = model.fingerprint;
  sealer.context_tokens = model.context_tokens;
  sealer.method = model.method;
  sealer.threads = options.seal_threads;
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
      const auto called = [&] { return has_work() || stopping_; };
      if (keys_ == nullptr || keys_->arena_pages() == 0) {
        changed_.wait(lock, called);
      } else {
        changed_.wait_for(lock, kReclaimPoll, called);  // the store may want its slots for others
      }
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
  if (!store_->connected()) GiveBackPages(UINT32_MAX);  // they keep the arena of a store that is gone
  if (const uint32_t asked_back = store_->TakeReclaim(); asked_back > 0) MakeRoom(runner_->tick() + 1, asked_back);
  for (const SequencePtr& s : active_) {
    FollowRouter(s.get());
    CutBack(s.get());
    RestoreWindow(s.get());
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
    if (active_.empty() && most_room_ > 0) room_blocks_ = most_room_;  // others may have gone
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
  if (s.decoding()) return 1;
  const uint32_t batch = options_.prefill_batch_tokens;
  const uint32_t end = std::min((s.computed / batch + 1) * batch, s.target(model_.geometry.chunk_tokens));
  return end > s.computed ? end - s.computed : 0;
}

bool StepLoop::Ready(Sequence* s, uint32_t rows) {
  if (!s->runs() || s->cut_to.has_value() || s->window_lost || rows == 0) return false;
  if (s->room_failures > 0 && absl::Now() < s->room_at) return false;
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
    if (s->decoding()) continue;
    const uint32_t rows = NextRows(*s);
    if (!Ready(s, rows)) continue;
    StepPart part;
    part.sequence = s;
    part.rows = rows;
    part.want_logits = s->state == Sequence::State::kRunning && s->request->max_tokens > 0 &&
                       s->computed + rows == s->tokens.size();
    prefill_turn_ = s->id;
    return {part};
  }
  return {};
}

std::vector<StepPart> StepLoop::PickDecode() {
  std::vector<StepPart> parts;
  for (const SequencePtr& s : active_) {
    if (!s->decoding() || !Ready(s.get(), 1)) continue;
    StepPart part;
    part.sequence = s.get();
    part.rows = 1;
    part.want_logits = s->state == Sequence::State::kRunning && s->at_last();
    parts.push_back(part);
  }
  // One that found no room is computed by itself, so that the others can give back what they hold; they go on in turns.
  const auto found_none = [](const StepPart& part) { return part.sequence->room_failures > 0; };
  const auto alone = std::find_if(parts.begin(), parts.end(), found_none);
  if (alone == parts.end() || parts.size() == 1) return parts;
  alone_last_ = !alone_last_ || std::all_of(parts.begin(), parts.end(), found_none);
  if (alone_last_) return {*alone};
  parts.erase(std::remove_if(parts.begin(), parts.end(), found_none), parts.end());
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
  const bool decodes = parts[0].sequence->decoding();
  const StepTrace::Span whole(trace_, decodes ? "decode" : "prefill",
                              {"rows", decodes ? parts.size() : parts[0].rows, "position",
                               parts[0].sequence->computed});
  if (!store_->connected()) {  // the next one may have more
    room_blocks_ = UINT64_MAX;
    most_room_ = 0;
  }
  if (!ShortOfRoom()) GiveBackPages(UINT32_MAX);
  runner_->UseKeyCache(ShortOfRoom());
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

}  // namespace hga
