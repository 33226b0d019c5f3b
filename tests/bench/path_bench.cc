// Benchmark `path`: a request through the three real daemons with the real model, dense and routed side by side.
#include <chrono>
#include <cstdio>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/base/machine_limits.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/report.h"
#include "tests/support/requests.h"
#include "tests/support/stack.h"

ABSL_FLAG(std::string, model, "", "GGUF file of SmolLM2-135M-Instruct");
ABSL_FLAG(std::string, document, "", "text file to prefill");
ABSL_FLAG(bool, quick, false, "fewer lengths, one repetition");

namespace hga {
namespace {

constexpr uint32_t kDecodeTokens = 64;

// About `tokens` tokens of natural text; what is counted is what the worker says.
gpu_worker::v1::GenerateRequest TextRequest(const std::string& document, uint32_t tokens, uint32_t max_tokens) {
  constexpr double kCharactersPerToken = 3.9;
  std::string text;
  while (text.size() < tokens * kCharactersPerToken) text += document;
  text.resize(static_cast<size_t>(tokens * kCharactersPerToken));
  auto request = GreedyRequest(max_tokens);
  request.set_text(text);
  return request;
}

struct Speed {
  double prefill_tps = 0, decode_tps = 0, ttft_s = 0;
  Answer answer;
};

absl::StatusOr<Speed> MedianOf(Stack& stack, const gpu_worker::v1::GenerateRequest& request, int repetitions) {
  std::vector<double> prefill, decode, ttft;
  Speed speed;
  for (int i = 0; i < repetitions; ++i) {
    speed.answer = stack.Generate(request);
    if (!speed.answer.status.ok()) return speed.answer.status;
    const auto& f = speed.answer.finished;
    if (f.reused_tokens() != 0) return absl::InternalError("a nameless session found its tokens in the store");
    prefill.push_back(f.prompt_tokens() / f.prefill_s());
    decode.push_back(f.decode_s() > 0 ? f.decode_steps() / f.decode_s() : 0);
    ttft.push_back(f.ttft_s());
  }
  speed.prefill_tps = Quantile(&prefill, 0.5);
  speed.decode_tps = Quantile(&decode, 0.5);
  speed.ttft_s = Quantile(&ttft, 0.5);
  return speed;
}

absl::Status MeasureSpeed(Stack& stack, const std::string& document, bool quick, Report* report) {
  struct Length {
    const char* name;
    uint32_t tokens;
  };
  std::vector<Length> lengths = {{"1k", 1000}, {"8k", 7600}};
  if (!quick) lengths.insert(lengths.begin() + 1, {"4k", 4000});
  for (const Length& length : lengths) {
    for (const bool routed : {false, true}) {
      const auto request = TextRequest(document, length.tokens, kDecodeTokens);
      auto speed = MedianOf(stack, routed ? request : Dense(request), quick ? 1 : 3);
      if (!speed.ok()) return speed.status();
      const std::string mode = routed ? "routed" : "dense";
      const auto& f = speed->answer.finished;
      const std::string at = absl::StrCat(mode, ", ", f.prompt_tokens(), " prompt tokens");
      report->Add(absl::StrCat("prefill_tps_", mode, "_", length.name), absl::StrCat("prefill, ", at),
                  speed->prefill_tps, "tokens/s");
      report->Add(absl::StrCat("decode_tps_", mode, "_", length.name), absl::StrCat("decode, ", at), speed->decode_tps,
                  "tokens/s");
      report->Add(absl::StrCat("ttft_s_", mode, "_", length.name), absl::StrCat("time to first token, ", at),
                  speed->ttft_s, "s");
      if (!routed) continue;
      report->Add(absl::StrCat("attended_fraction_", length.name),
                  "  keys attended of keys a dense model attends, decode", f.attended_fraction(), "");
      report->Add(absl::StrCat("prefill_attended_fraction_", length.name), "  the same, prefill",
                  f.prefill_attended_fraction(), "");
    }
  }
  return absl::OkStatus();
}

absl::Status MeasureReuse(Stack& stack, const std::string& document, Report* report) {
  const auto request = InSession(TextRequest(document, 6500, 32), "bench");
  const Answer first = stack.Generate(request);
  if (!first.status.ok()) return first.status;
  const Answer second = stack.Generate(request);
  if (!second.status.ok()) return second.status;
  const auto& f = second.finished;
  report->Add("first_ttft_s", absl::StrCat("time to first token, first run, ", f.prompt_tokens(), " tokens"),
              first.finished.ttft_s(), "s");
  report->Add("ttft_s", "time to first token, second run, K/V in RAM", f.ttft_s(), "s");
  report->Add("second_run_reused_tokens", "tokens from the store, second run", f.reused_tokens(), "tokens");
  report->Add("second_run_prefilled_tokens", "tokens computed, second run", f.prompt_tokens() - f.reused_tokens(),
              "tokens");

  const Answer hot = stack.Generate(InSession(Routed(request, 1.0f), "bench"));
  if (!hot.status.ok()) return hot.status;
  constexpr double kLayers = 30;
  report->Add("ring_exchanges_per_layer", "ring exchanges per layer and decode step",
              hot.finished.ring_exchanges() / kLayers / hot.finished.decode_steps(), "");

  // A text that the store does not know: what it attends was computed here and is held.
  const auto rpcs_per_token = [](const Answer& answer) {
    return static_cast<double>(answer.finished.kv_rpcs_decode()) / answer.finished.decode_steps();
  };
  const Answer held = stack.Generate(TextRequest(document.substr(document.size() / 3), 3000, 128));
  if (!held.status.ok()) return held.status;
  if (held.finished.reused_tokens() != 0) return absl::InternalError("an unknown text was found in the store");
  report->Add("rpcs_per_token_ram_hit", "RPCs to kv_store per decode step, all blocks held", rpcs_per_token(held), "");
  report->Add("rpcs_per_token_resumed", "the same after a resume, K/V in RAM, first 32 tokens", rpcs_per_token(second),
              "");

  const absl::Status flushed = stack.FlushToDisk();
  if (!flushed.ok()) return flushed;
  const Answer cold = stack.Generate(request);
  if (!cold.status.ok()) return cold.status;
  report->Add("disk_ttft_s", "time to first token, K/V on disk", cold.finished.ttft_s(), "s");
  return absl::OkStatus();
}

int Run() {
  const bool quick = absl::GetFlag(FLAGS_quick);
  const std::string document = ReadFileOrEmpty(absl::GetFlag(FLAGS_document));
  if (document.empty()) {
    std::fprintf(stderr, "path_bench: --document names no text\n");
    return 2;
  }
  StackOptions options;
  options.model = absl::GetFlag(FLAGS_model);
  options.arena_bytes = "1GiB";
  Stack stack(options);
  std::printf("path: %s\n", MachineName().c_str());
  Report report;
  report.Add("read_bandwidth_gbps", "machine: memory read bandwidth, all cores", MeasureReadBandwidth(), "GB/s");
  absl::Status status = stack.Start();
  if (status.ok()) status = MeasureSpeed(stack, document, quick, &report);
  if (status.ok()) status = MeasureReuse(stack, document, &report);
  if (status.ok()) status = WriteNumbers(report);
  return ExitCode(status);
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  return hga::Run();
}
