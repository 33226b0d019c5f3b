// What becomes of a step's results: chunks are sealed, tokens handed out, sequences ended and saved.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/request_id.h"
#include "common/base/status.h"
#include "gpu_worker/engine/step_loop.h"

namespace hga {
namespace {

constexpr uint32_t kCheckpointChunks = 16;

void LogEnd(const Sequence& s) {
  const RequestScope scope(s.request->id);
  const RequestStats& stats = s.stats;
  LogInfo("request ended", {{"code", absl::StatusCodeToString(s.end.code())},
                            {"seconds", absl::ToDoubleSeconds(absl::Now() - s.accepted)},
                            {"ttft_s", stats.ttft_s},
                            {"prompt_tokens", stats.prompt_tokens},
                            {"reused_tokens", stats.reused_tokens},
                            {"generated_tokens", stats.completion_tokens},
                            {"attended", stats.attended_fraction(true)},
                            {"dense_fallback_steps", stats.dense_fallback_steps}});
}

}  // namespace

void StepLoop::FinishPart(const StepPart& part) {
  Sequence* s = part.sequence;
  if (part.lost_chunk.has_value()) {
    s->cut_to = part.lost_chunk;
    return;
  }
  if (part.no_room) return WaitForRoom(s, part.status);
  s->room_failures = 0;
  if (s->state == Sequence::State::kFlushing) {
    if (!part.status.ok()) return End(s, part.status);
    Advance(s, part);
    if (s->computed == s->tokens.size()) s->state = Sequence::State::kEnding;
    return;
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
  Advance(s, part);
  if (decoded) {
    s->stats.decode_steps += part.want_logits;
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

// The part's rows are computed. A step after a cut that computes rows again, which ends where the one before did, is
// not counted again.
void StepLoop::Advance(Sequence* s, const StepPart& part) {
  if (s->computed >= s->counted) {
    s->stats.attended_keys[s->decoding()] += part.attended_keys;
    s->stats.dense_keys[s->decoding()] += part.dense_keys;
  }
  s->computed += part.rows;
  s->counted = std::max(s->counted, s->computed);
  SealComplete(s);
}

// The part's next token, of the step's logits.
absl::StatusOr<uint32_t> StepLoop::Sample(const StepPart& part) {
  Sequence* s = part.sequence;
  const size_t width = logits_.top_count > 0 ? logits_.top_count : model_.vocab_size, at = part.logits_row * width;
  if ((logits_.top_count > 0 ? logits_.top.size() : logits_.all.size()) < at + width) {
    return absl::InternalError("logits are missing");
  }
  if (logits_.top_count > 0) {
    const auto top = absl::MakeConstSpan(logits_.top).subspan(at, width);
    HGA_RETURN_IF_ERROR(CheckTopLogits(top));
    if (const auto token = s->sampler.SampleTop(top, logits_.masses[part.logits_row])) return *token;
  }
  if (logits_.all.empty()) HGA_RETURN_IF_ERROR(runner_->TakeAllLogits(&logits_));
  const auto all = absl::MakeSpan(logits_.all);
  const auto logits = all.subspan(size_t{part.logits_row} * model_.vocab_size, model_.vocab_size);
  HGA_RETURN_IF_ERROR(CheckLogits(logits));
  return s->sampler.Sample(logits, s->tokens);
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

bool StepLoop::Checkpoint(const Sequence& s, uint32_t chunk) const {
  if (s.request->append) return false;  // a half-read turn must not replace what the session holds
  return (chunk + 1) % kCheckpointChunks == 0 || chunk + 1 == s.prompt_tokens / model_.geometry.chunk_tokens;
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
  s->cut_to.reset();
  if (s->state == Sequence::State::kFlushing) {  // the answer is whole; the session lacks what was left to compute
    s->state = Sequence::State::kEnding;
    return;
  }
  s->end = status;
  s->reason = reason;
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
  // A turn that was cut off before its answer leaves the session as it was, and so does one that ended while it
  // computed again what the store had lost: the session has more than is there now.
  const bool save = (s->end.ok() || s->answering() || !s->request->append) && s->committed >= s->lost_from;
  s->state = Sequence::State::kClosing;
  sealer_->Close(s->id, save, s->committed, std::move(tail));
}

// Last: `s` is gone afterwards.
void StepLoop::OnClosed(Sequence* s, const absl::Status& saved) {
  EngineEvent event;
  event.status = s->end;
  if (!saved.ok()) Warn(s, absl::StrCat("the session was not saved: ", std::string(saved.message())));
  if (s->end.ok()) {
    event.kind = EngineEvent::Kind::kFinished;
    event.reason = s->reason;
    if (s->reason == FinishReason::kPrefillOnly) s->stats.prefill_s = absl::ToDoubleSeconds(absl::Now() - s->started);
    event.stats = s->stats;
    metrics_->ObserveEnd(s->reason, absl::ToDoubleSeconds(absl::Now() - s->accepted), s->stats);
  } else {
    metrics_->CountFailure(s->end.code());
  }
  LogEnd(*s);
  const auto events = s->events;
  active_.erase(std::find_if(active_.begin(), active_.end(), [&](const SequencePtr& p) { return p.get() == s; }));
  {
    std::lock_guard<std::mutex> lock(mu_);
    --live_;
  }
  events->Push(std::move(event));
}

void StepLoop::Warn(Sequence* s, const std::string& warning) {
  auto& warnings = s->stats.warnings;
  if (std::find(warnings.begin(), warnings.end(), warning) == warnings.end()) warnings.push_back(warning);
}

}  // namespace hga
