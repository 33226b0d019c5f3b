// `hga bench`: prompts of random tokens at growing depths, against a running stack.
#include <algorithm>
#include <chrono>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/bench/bench_report.h"
#include "client/commands.h"
#include "client/statistics.h"
#include "common/base/machine_limits.h"
#include "common/base/status.h"
#include "common/rpc/status.h"

namespace hga {
namespace {

using gpu_worker::v1::Finished;
using gpu_worker::v1::GenerateRequest;

constexpr double kCallTimeoutSeconds = 10;
// A session whose call was cancelled is in use until the worker has saved it.
constexpr int kDeleteAttempts = 200;
constexpr std::chrono::milliseconds kDeletePause(50);
// At most so much of a prompt is computed though the store has it: the unfinished chunk, and the last whole one.
constexpr uint32_t kMostResumedAnew = 128;

class Bench {
 public:
  explicit Bench(const Call& call)
      : call_(call), options_(call.options.bench),
        seed_(call.options.seed.has_value() ? *call.options.seed : std::random_device()()) {}

  absl::Status Run();

 private:
  absl::Status GetModel();
  absl::Status Measure();
  absl::Status MeasureMode(uint32_t depth, const std::string& mode);
  absl::Status MeasureResume(GenerateRequest request, double full_ttft_s);
  GenerateRequest NewRequest(uint32_t depth, const std::string& mode);
  absl::StatusOr<Finished> Ask(const GenerateRequest& request);
  absl::StatusOr<Finished> AskAnew(const GenerateRequest& request, const std::string& mode);
  absl::Status DeleteSession();
  void Say(const std::string& line) const;
  void Print(const std::string& text) const;
  absl::Status Interrupted() const;

  const Call& call_;
  const BenchOptions& options_;
  uint64_t seed_;  // of the next text
  BenchReport report_;
  std::string session_;  // that may be there; empty: none
};

absl::Status Bench::Interrupted() const {
  return call_.interrupt->triggered() ? absl::CancelledError("interrupted") : absl::OkStatus();
}

void Bench::Say(const std::string& line) const {
  if (!call_.options.quiet) call_.console->err << line << std::endl;
}

void Bench::Print(const std::string& text) const {
  if (!call_.options.quiet) call_.console->out << text << std::flush;
}

absl::Status Bench::GetModel() {
  grpc::ClientContext context;
  SetTimeout(call_.options.timeout.value_or(kCallTimeoutSeconds), &context);
  const Interrupt::Scope scope(call_.interrupt, &context);
  HGA_RETURN_IF_ERROR(FromGrpc(call_.stub->GetModel(&context, {}, &report_.model)));
  if (report_.model.vocab_size() == 0) return absl::InternalError("the worker does not say how many tokens there are");
  return CheckDepths(options_, report_.model.context_tokens());
}

// Unknown to the store: each text is another one.
GenerateRequest Bench::NewRequest(uint32_t depth, const std::string& mode) {
  GenerateRequest request;
  *request.mutable_attention() = RequestFrom(call_.options).attention();
  const bool routed = mode == "routed";
  request.mutable_attention()->set_mode(routed ? gpu_worker::v1::Attention::MODE_ROUTED
                                               : gpu_worker::v1::Attention::MODE_DENSE);
  const auto tokens = RandomTokens(seed_++, depth, report_.model.vocab_size());
  request.mutable_tokens()->mutable_ids()->Add(tokens.begin(), tokens.end());
  request.set_max_tokens(options_.steps() + 1);
  request.set_ignore_eos(true);
  return request;
}

// What is generated is not shown.
absl::StatusOr<Finished> Bench::Ask(const GenerateRequest& request) {
  HGA_RETURN_IF_ERROR(Interrupted());
  std::ostream nowhere(nullptr);
  Console console{call_.console->in, nowhere, call_.console->err, false, call_.console->err_is_terminal};
  HGA_ASSIGN_OR_RETURN(const Finished finished,
                       StreamAnswer({call_.options, call_.stub, &console, call_.interrupt}, request));
  for (const std::string& warning : finished.warnings()) Say("warning: " + warning);
  if (finished.completion_tokens() != request.max_tokens()) {
    return absl::InternalError(absl::StrCat("the answer has ", finished.completion_tokens(), " tokens, not ",
                                            request.max_tokens()));
  }
  return finished;
}

absl::StatusOr<Finished> Bench::AskAnew(const GenerateRequest& request, const std::string& mode) {
  HGA_ASSIGN_OR_RETURN(const Finished finished, Ask(request));
  if (finished.reused_tokens() > 0) {
    return absl::InternalError(absl::StrCat(finished.reused_tokens(), " of ", finished.prompt_tokens(),
                                            " tokens were in the store already: choose another --seed"));
  }
  if (mode == "routed" && finished.dense_fallback_steps() > 0) {
    return absl::InternalError(absl::StrCat("the router is away: ", finished.dense_fallback_steps(),
                                            " steps attended everything; --modes dense measures without it"));
  }
  return finished;
}

absl::Status Bench::MeasureMode(uint32_t depth, const std::string& mode) {
  std::vector<BenchFigures> runs;
  const bool resume = options_.resume && mode == options_.modes[0];
  GenerateRequest request;
  for (uint32_t i = 0; i < options_.repetitions; ++i) {
    Say(absl::StrFormat("%d tokens, %s, %d of %d", depth, mode, i + 1, options_.repetitions));
    request = NewRequest(depth, mode);
    if (resume && i + 1 == options_.repetitions) {
      session_ = absl::StrFormat("hga-bench-%d-%x", depth, seed_);
      request.set_session(session_);
    }
    HGA_ASSIGN_OR_RETURN(const Finished finished, AskAnew(request, mode));
    runs.push_back(FiguresOf(report_.model, finished));
  }
  report_.rows.push_back({depth, mode, MedianOf(runs)});
  Print(BenchLine(report_.rows.back(), report_.limits));
  return resume ? MeasureResume(std::move(request), runs.back().ttft_s) : absl::OkStatus();
}

absl::Status Bench::MeasureResume(GenerateRequest request, double full_ttft_s) {
  request.set_max_tokens(1);
  const auto depth = static_cast<uint32_t>(request.tokens().ids_size());
  std::vector<double> ttfts;
  uint32_t reused = depth;
  for (uint32_t i = 0; i < options_.repetitions; ++i) {
    Say(absl::StrFormat("%d tokens again, %d of %d", depth, i + 1, options_.repetitions));
    HGA_ASSIGN_OR_RETURN(const Finished finished, Ask(request));
    reused = std::min(reused, finished.reused_tokens());
    ttfts.push_back(finished.ttft_s());
  }
  if (reused + kMostResumedAnew < depth) {
    return absl::InternalError(absl::StrCat("the store had only ", reused, " of ", depth,
                                            " tokens when they were asked for again: is it too small?"));
  }
  report_.resumes.push_back({depth, Median(std::move(ttfts)), full_ttft_s, reused});
  Print(ResumeLine(report_.resumes.back()));
  return DeleteSession();
}

absl::Status Bench::DeleteSession() {
  if (session_.empty()) return absl::OkStatus();
  gpu_worker::v1::DeleteSessionRequest request;
  request.set_name(std::exchange(session_, ""));
  absl::Status status;
  for (int i = 0; i < kDeleteAttempts; ++i) {
    if (i > 0) std::this_thread::sleep_for(kDeletePause);
    grpc::ClientContext context;
    SetTimeout(kCallTimeoutSeconds, &context);
    gpu_worker::v1::DeleteSessionResponse response;
    status = FromGrpc(call_.stub->DeleteSession(&context, request, &response));
    if (!absl::IsFailedPrecondition(status)) break;
  }
  if (status.ok() || absl::IsNotFound(status)) return absl::OkStatus();
  return absl::Status(status.code(), absl::StrCat("session ", request.name(), " is left behind: ",
                                                  std::string(status.message())));
}

absl::Status Bench::Measure() {
  if (!options_.no_limits) {
    Say("measuring what this machine can do at most");
    report_.limits = {MachineName(), MeasureReadBandwidth(), MeasureFmaRate()};
  }
  Print(BenchHeader(report_.model, report_.limits));
  for (const uint32_t depth : options_.depths) {
    for (const std::string& mode : options_.modes) HGA_RETURN_IF_ERROR(MeasureMode(depth, mode));
  }
  return absl::OkStatus();
}

absl::Status Bench::Run() {
  const Interrupt::Deferred deferred(call_.interrupt);  // Ctrl-C between calls: the session is deleted first
  HGA_RETURN_IF_ERROR(GetModel());
  absl::Status status = Measure();
  const absl::Status deleted = DeleteSession();
  if (!deleted.ok()) Say(absl::StrCat("warning: ", std::string(deleted.message())));
  status.Update(deleted);
  HGA_RETURN_IF_ERROR(status);
  return WriteJson(call_, Dump(BenchJson(report_)));
}

}  // namespace

absl::Status RunBench(const Call& call) { return Bench(call).Run(); }

}  // namespace hga
