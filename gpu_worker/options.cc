#include "gpu_worker/options.h"

#include <iostream>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/base/arguments.h"
#include "common/base/status.h"
#include "common/kv/kv_dtype.h"
#include "common/rpc/channel.h"

namespace hga {
namespace {

// Room for the trace's beginning, a step, and its end.
constexpr uint64_t kMinTraceBytes = uint64_t{64} << 10;

void AddEngineOptions(CLI::App* app, EngineOptions* e) {
  app->add_option("--window_tokens", e->window_tokens, "Newest tokens, attended always by an answer's tokens");
  app->add_option("--prefill_window_tokens", e->prefill_window_tokens,
                  "The same for a prompt's tokens. cuda: default 512");
  app->add_option("--prefill_block_tokens", e->prefill_block_tokens,
                  "Tokens of a routed prompt that share what they select: 16, 32 or 64");
  app->add_option("--dense_prefill_tokens", e->dense_prefill_tokens,
                  "A prompt's tokens up to here attend everything, those behind it by routing. cuda: default: as many "
                  "as half of the arena holds");
  app->add_option("--sink_tokens", e->sink_tokens, "First tokens, attended always");
  app->add_option("--budget_fraction", e->budget.fraction, "Fraction of its history a query may attend by routing");
  app->add_option("--budget_linear_tokens", e->budget.linear_tokens,
                  "The fraction is of so many tokens of the history; beyond, the budget grows by the square root. Not "
                  "where a budget is given");
  app->add_option("--budget_min_tokens", e->budget.min_tokens, "Floor of the budget");
  app->add_option("--budget_max_tokens", e->budget.max_tokens, "Cap of the budget");
  app->add_option("--dense_decode_tokens", e->budget.dense_decode_tokens,
                  "An answer's tokens up to here attend everything and ask no router; 0, also where a budget is given: "
                  "none do");
  app->add_option("--budget_shared", e->budget.shared,
                  "KV heads and layers share the budget: keys go to where the attention is; false: equal parts");
  app->add_option("--budget_layer_cap", e->budget.layer_cap,
                  "Most that a layer may take of a shared budget, in budgets");
  app->add_option("--budget_step_cap", e->budget.step_cap,
                  "Most that the layers of a token's step may take of a shared budget on average, in budgets");
  app->add_option("--budget_layer_floor", e->budget.layer_floor,
                  "What a shared budget leaves for each later layer at least, in budgets");
  app->add_option(
      "--budget_least_share", e->budget.least_share,
      "Even shares of the attention that a key needs to be read from a shared budget of 384 keys; of a larger "
      "one fewer");
  app->add_option("--residual", e->budget.residual,
                  "Keys that are not read count by their chunk's mean key; false: not at all");
  app->add_option("--budget_top_p", e->budget.top_p,
                  "Share of the attention at which a layer's selection from a shared budget ends; 1: never");
  app->add_option("--prefill_batch_tokens", e->prefill_batch_tokens, "Tokens of a prefill step. cuda: default 512");
  app->add_option("--max_sequences", e->max_sequences, "Requests computed at a time");
  app->add_option("--max_waiting", e->max_waiting, "Requests that may wait beyond those");
  app->add_option("--max_dense_tokens", e->max_dense_tokens,
                  "Longest sequence that goes on without a router; 0: the model's context");
  app->add_option("--early_selection", e->early_selection,
                  "Guess each layer's selection while the one before is computed, and fetch for it; changes no token");
  app->add_option("--key_cache", e->key_cache_bytes,
                  "Memory for copies of single keys, used where the arena has no room for a sequence's K/V; more of "
                  "them take slots of the arena; 0: none; not with a GPU, which has its own (--device_tier)")
      ->transform(CLI::AsSizeValue(false));
  app->add_option("--summary_method", e->summary_method,
                  "How keys are summed up for the router: dealt (as many bits as a key has channels, dealt out to them "
                  "by what is measured at start), sketch (one for each channel), or mean, cuboid, box, "
                  "gauss or kmeans, followed by the tokens of a unit (8, 16 or 32) and by -int8 if so wanted, e.g. "
                  "cuboid8-int8");
}

void KeepBudgetAsGiven(const CLI::App& app, BudgetOptions* budget) {
  const auto given = [&app](const char* flag) { return app.count(flag) > 0; };
  if (!given("--budget_fraction") && !given("--budget_min_tokens") && !given("--budget_max_tokens")) return;
  const BudgetOptions as_read = *budget;
  budget->KeepAsNamed();
  if (given("--dense_decode_tokens")) budget->dense_decode_tokens = as_read.dense_decode_tokens;
  if (given("--budget_linear_tokens")) budget->linear_tokens = as_read.linear_tokens;
}

void AddInspectOptions(CLI::App* app, InspectOptions* i) {
  const std::string group = "Inspect";
  app->add_option("--inspect", i->path, "Show what this model is and needs, and exit: GGUF file or folder")
      ->group(group);
  app->add_option("--context", i->context_tokens, "Tokens to plan for; 0: the model's context")
      ->check(CLI::Range(uint64_t{0}, uint64_t{1} << 40))
      ->group(group);
  app->add_option("--device_memory", i->device_memory, "Memory of the GPU, e.g. 32GiB; 0: not known")
      ->transform(CLI::AsSizeValue(false))
      ->group(group);
  app->add_flag("--json{-}", i->json, "One JSON object instead of a table, to stdout or to --json=FILE")->group(group);
}

}  // namespace

absl::Status GpuWorkerOptions::Validate() const {
  if (sizes || !inspect.path.empty() || watch.print_metrics) return ValidateBudget(engine.budget);
  HGA_RETURN_IF_ERROR(ValidateAddress(listen));
  if (!metrics_listen.empty()) HGA_RETURN_IF_ERROR(ValidateAddress(metrics_listen));
  HGA_RETURN_IF_ERROR(ValidateAddress(kv_store));
  if (!router.empty()) HGA_RETURN_IF_ERROR(ValidateAddress(router));
  if (model.empty()) {
    return absl::InvalidArgumentError(
        "--model is missing: a GGUF file or a folder with safetensors; deploy/fetch_model.sh brings one");
  }
  if (router_transport != "auto" && router_transport != "ring" && router_transport != "stream") {
    return absl::InvalidArgumentError(
        absl::StrCat("--router_transport '", router_transport, "': must be auto, ring or stream"));
  }
  if (kv_transport != "auto" && kv_transport != "arena" && kv_transport != "bytes") {
    return absl::InvalidArgumentError(
        absl::StrCat("--kv_transport '", kv_transport, "': must be auto, arena or bytes"));
  }
  if (backend != "cpu" && backend != "cuda" && backend != "reference") {
    return absl::InvalidArgumentError(absl::StrCat("--backend '", backend, "': must be cpu, cuda or reference"));
  }
  HGA_RETURN_IF_ERROR(ParseKvDtype(kv_dtype).status());
  if (threads < 0 || threads > 1024) return absl::InvalidArgumentError("--threads must be 0 to 1024");
  if (router_spin_us < 0 || router_spin_us > 100000) {
    return absl::InvalidArgumentError("--router_spin_us must be 0 to 100000");
  }
  if (!trace.empty() && trace_bytes < kMinTraceBytes) {
    return absl::InvalidArgumentError(absl::StrCat("--trace_bytes must be ", kMinTraceBytes, " or more"));
  }
  return ValidateBudget(engine.budget);
}

std::optional<int> ParseOptions(int argc, const char* const* argv, GpuWorkerOptions* o) {
  CLI::App app("gpu_worker: runs the model for HGA Serve");
  app.option_defaults()->always_capture_default();
  app.set_config("--config", "", "File of flag=value lines");
  app.add_option("--listen", o->listen, "Address to serve at: unix:/path or host:port");
  app.add_option("--metrics_listen", o->metrics_listen, "Address of the metrics page; empty: none");
  AddWatchOptions(&app, &o->watch);
  app.add_option("--model", o->model,
                 "The model: a GGUF file, or a folder with config.json, tokenizer.json and safetensors files");
  app.add_option("--chat_template", o->chat_template,
                 "chatml, llama3, llama3.1, qwen2.5 or qwen3; empty: the model file's own");
  app.add_option("--kv_store", o->kv_store, "Address of the kv_store daemon");
  app.add_option("--kv_transport", o->kv_transport,
                 "arena (mapped, same host), bytes (over gRPC) or auto: arena where it can be mapped");
  app.add_option("--kv_remote_bytes", o->kv_remote_bytes, "Bytes of K/V held here at a time with --kv_transport bytes")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--kv_ring", o->kv_ring,
                 "Fetch over a ring in shared memory where the arena is mapped; false: by gRPC");
  app.add_option("--router", o->router, "Address of the router daemon; empty: none, attention is dense");
  app.add_option("--router_transport", o->router_transport, "auto, ring (shared memory) or stream (gRPC)");
  app.add_option("--router_spin_us", o->router_spin_us, "Microseconds to poll for a selection before sleeping");
  app.add_option("--backend", o->backend,
                 "cpu, cuda (a GPU; only where built with --config=cuda) or reference (slow, the oracle)");
  app.add_option("--device_memory_limit", o->device_memory_limit,
                 "cuda: most device memory that is allocated, e.g. 32GiB; 0: what is free, but for a reserve")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--device_tier", o->device_tier,
                 "cuda: device memory for copies of K/V, e.g. 1GiB; 0: what the rest leaves of the limit")
      ->transform(CLI::AsSizeValue(false));
  app.add_option(
         "--device_summaries", o->device_summaries,
         "cuda: device memory for the router's summaries, e.g. 512MiB: for what fits, an answer's tokens select on "
         "the device; 0: the router selects. Default: up to 1 GiB of what the rest leaves")
      ->transform(CLI::AsSizeValue(false))
      ->default_str("");
  app.add_option("--device_in_place", o->device_in_place,
                 "cuda: answers' tokens read K/V in host memory, over the bus; false: by way of --device_tier");
  app.add_option("--device_graphs", o->device_graphs,
                 "cuda: work that is the same in each decode step is recorded once and launched as a whole");
  app.add_option("--device_f8_gemm", o->device_f8_gemm,
                 "cuda: prompts are multiplied in FP8 with FP8 weights, where the device can; false: as bf16");
  app.add_option("--bf16_copy", o->bf16_copy,
                 "cpu: read prompts with a copy of quantised weights in bf16 (2 bytes of memory a weight), where the "
                 "CPU multiplies bf16: faster with AVX-512 by a tenth or more; for AMX, not measured");
  app.add_option("--kv_dtype", o->kv_dtype,
                 "What K/V is rounded to: bf16, fp8_e4m3 or int8. int8 takes half of the RAM and of the disk, and with "
                 "cuda half of the bus; fp8_e4m3 half of the disk, with the same flag of kv_store");
  app.add_option("--threads", o->threads, "Threads of the backend; 0: one per core");
  app.add_option("--trace", o->trace,
                 "Write where the steps' time goes to this file, as a Chrome trace (chrome://tracing, Perfetto)");
  app.add_option("--trace_bytes", o->trace_bytes, "Stop tracing when the file has this size")
      ->transform(CLI::AsSizeValue(false));
  AddEngineOptions(&app, &o->engine);
  app.add_flag("--sizes", o->sizes, "Show what known models need at several contexts, and exit")->group("Inspect");
  AddInspectOptions(&app, &o->inspect);
  try {
    app.parse(LastArgumentFirst(argc, argv));
    KeepBudgetAsGiven(app, &o->engine.budget);
    for (const CLI::Option* option : app.get_options([](const CLI::Option* option) { return option->count() > 0; })) {
      o->given.insert(option->get_name());
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  o->inspect.device_summaries = o->device_summaries;
  const absl::Status valid = o->Validate();
  if (valid.ok()) return std::nullopt;
  std::cerr << "gpu_worker: " << valid.message() << "\n";
  return 2;
}

}  // namespace hga
