#include "client/options.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/exit_code.h"
#include "common/base/status.h"
#include "common/kv/ids.h"
#include "common/rpc/channel.h"

namespace hga {
namespace {

constexpr char kAbout[] =
    "hga: asks a language model that keeps what it has read.\n"
    "A document is read once; its K/V cache stays in memory and on disk, so later questions start at once.";
constexpr char kExamples[] =
    "Examples:\n"
    "  hga ask --file deploy/documents/alice.txt \"What does the Dodo give to Alice?\"\n"
    "  hga chat --session holidays\n\n"
    "Exit codes: 0 ok, 1 failure, 2 usage, 3 no worker, 4 not found, 5 busy, 6 invalid request, 130 "
    "interrupted.\n"
    "More about a command: hga COMMAND --help";
constexpr char kMore[] = "Flags for sampling, attention, the worker's address and JSON are in: hga --help";

CLI::App* Add(CLI::App* parent, Options* o, Command command, const std::string& name,
              const std::string& help) {
  CLI::App* sub = parent->add_subcommand(name, help);
  sub->fallthrough()->footer(kMore);
  sub->parse_complete_callback([o, command] { o->command = command; });
  return sub;
}

void AddModelCommands(CLI::App* app, Options* o) {
  CLI::App* model = app->add_subcommand("model", "What model is served; inspect: what a model file is and needs");
  model->fallthrough()->footer(kMore);
  CLI::App* inspect =
      model->add_subcommand("inspect", "A model file's architecture, types, sizes, and GPU memory plan");
  inspect->fallthrough()->footer("Runs gpu_worker, which must be installed beside hga. Exit codes: 0 ok, 1 failure.");
  inspect->add_option("path", o->model_path, "GGUF file, or folder with safetensors")->required()->type_name("");
  inspect->add_option("--context", o->context_tokens, "Tokens to plan for; default: the model's context")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40))
      ->type_name("N");
  inspect->add_option("--device-memory,--device_memory", o->device_memory, "Memory of the GPU, e.g. 32GiB")
      ->type_name("SIZE");
  model->parse_complete_callback(
      [o, inspect] { o->command = inspect->parsed() ? Command::kModelInspect : Command::kModel; });
}

// Everything behind it is kv_store_tool's to read.
void AddStoreCommand(CLI::App* app, Options* o) {
  CLI::App* store =
      app->add_subcommand("store", "verify, stats, compact, export, import: look after a store, stopped or running");
  store->prefix_command()->set_help_flag();
  store->parse_complete_callback([o, store] {
    o->command = Command::kStore;
    o->store_arguments = store->remaining();
  });
}

void AddBenchCommand(CLI::App* app, Options* o) {
  BenchOptions* b = &o->bench;
  CLI::App* bench = Add(app, o, Command::kBench, "bench",
                        "Speed of prefill and decode at growing depths, beside what the machine can do at most");
  bench->footer(
      "Prompts are random tokens that the store does not know. Columns: prefill in tokens/s, GFLOP/s and share of\n"
      "this machine's f32 FMA rate; seconds to the first token; decode in tokens/s, ms per token, GB/s (weights that\n"
      "a step reads, and the K/V it attends) and share of this machine's read bandwidth; keys attended of those a\n"
      "dense model reads; where blocks of K/V were found. --budget and its kin hold for routed attention: hga --help");
  bench->add_option("--depths", b->depths, "Tokens of the prompts; default 512,4096,16384")
      ->delimiter(',')
      ->type_name("N,...");
  bench->add_option("--modes", b->modes, "Kinds of attention; default routed,dense")
      ->delimiter(',')
      ->check(CLI::IsMember({"routed", "dense"}))
      ->type_name("MODE,...");
  const auto count = [bench](const std::string& flag, uint32_t* value, const std::string& help) {
    bench->add_option(flag, *value, help)->check(CLI::Range(1, 1 << 20))->type_name("N");
  };
  count("--decode-tokens,--decode_tokens", &b->decode_tokens, "Decode steps after each prompt; default 64");
  count("--repetitions", &b->repetitions, "Medians of so many; default 1");
  bench->add_flag("--prefill-only,--prefill_only", b->prefill_only, "No decode");
  bench->add_flag("--resume", b->resume, "Each depth again, its K/V in the store: time to the first token");
  bench->add_flag("--no-limits,--no_limits", b->no_limits, "Do not measure this machine: the worker is on another one");
  bench->add_option("--seed", o->seed, "Of the prompts; default: another each time")->type_name("N");
  // Unlike the flag of all commands, takes the file as a word of its own too: bench has no other words.
  bench->add_option_function<std::string>(
           "--json", [o](const std::string& file) { o->json = file; },
           "Figures as one flat JSON object, on the last line of stdout, or in FILE")
      ->expected(0, 1)
      ->default_str("-")
      ->type_name("[FILE]");
}

void AddCommands(CLI::App* app, Options* o) {
  constexpr char kSession[] = "Name that keeps the K/V for the next time";
  CLI::App* ask = Add(app, o, Command::kAsk, "ask", "Ask a question about a text file");
  ask->add_option("--file,-f", o->file, "The text file (UTF-8)")->required()->type_name("FILE");
  ask->add_option("question", o->text, "The question")->required()->type_name("");
  ask->add_option("--session", o->session, "Name to keep the K/V under; default: a hash of the file")
      ->type_name("NAME");

  CLI::App* chat = Add(app, o, Command::kChat, "chat", "Talk; one message per line, /quit ends");
  chat->add_option("--session", o->session, "Talk to go on with, or to begin; default: a new name")
      ->type_name("NAME");

  CLI::App* generate = Add(app, o, Command::kGenerate, "generate", "Answer one prompt");
  generate->add_option("prompt", o->text, "The prompt")->required()->type_name("");
  generate->add_option("--session", o->session, kSession)->type_name("NAME");
  generate->add_flag("--append", o->append, "Go on with what the session holds");
  CLI::Option* raw =
      generate->add_flag("--raw", o->raw, "Take the prompt as it is, without the chat template");
  generate->add_flag("--chat", "Take the prompt as a user's message (the default)")->excludes(raw);

  CLI::App* prefill =
      Add(app, o, Command::kPrefill, "prefill", "Read a text file now, to ask about it later");
  prefill->add_option("--file,-f", o->file, "The text file (UTF-8)")->required()->type_name("FILE");
  prefill->add_option("--session", o->session, "As for ask")->type_name("NAME");
  prefill->add_flag("--pin", o->pin, "Keep its K/V in RAM and on disk before others', as `sessions pin` does");

  CLI::App* sessions = app->add_subcommand("sessions", "List, copy, pin or delete what is kept");
  sessions->require_subcommand(1)->fallthrough()->footer(kMore);
  Add(sessions, o, Command::kSessionsList, "list", "Names, sizes, last use");
  Add(sessions, o, Command::kSessionsDelete, "delete", "Forget a session")
      ->add_option("name", o->session, "The session")
      ->required()
      ->type_name("");
  CLI::App* fork = Add(sessions, o, Command::kSessionsFork, "fork", "Go on with a session under another name as well");
  fork->add_option("source", o->session, "The session")->required()->type_name("");
  fork->add_option("name", o->fork, "The new name")->required()->type_name("");
  Add(sessions, o, Command::kSessionsPin, "pin", "Keep a session's K/V in RAM and on disk before others'")
      ->add_option("name", o->session, "The session")
      ->required()
      ->type_name("");
  Add(sessions, o, Command::kSessionsUnpin, "unpin", "Treat a session like others again")
      ->add_option("name", o->session, "The session")
      ->required()
      ->type_name("");
  CLI::App* explain = Add(app, o, Command::kExplain, "explain", "Why a token of a session attends what it does");
  explain->add_option("--session", o->session, "The session")->required()->type_name("NAME");
  explain->add_option("--layer", o->layer, "Layer, from 0")->required()->type_name("N");
  explain->add_option("--position", o->position, "Token, from 0; default: the session's last")->type_name("N");
  explain->add_option("--chunks", o->chunks, "Chunks shown per KV head, by mass")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N");
  AddBenchCommand(app, o);
  Add(app, o, Command::kStats, "stats", "Counters of the worker, the store and the router");
  AddModelCommands(app, o);
  AddStoreCommand(app, o);

  Add(app, o, Command::kSize, "size", "What known models need of RAM, disk and GPU at several contexts");

  CLI::App* health = Add(app, o, Command::kHealth, "health", "Whether a daemon serves; exit code 3 where it does not");
  health->add_option("address", o->health_address, "unix:/path or host:port of any daemon; default: the worker")
      ->type_name("");
  health->add_option("--wait", o->wait, "Keep asking for so long until it serves")
      ->check(CLI::Range(0.0, 86400.0))
      ->type_name("SECONDS");

  CLI::App* doctor = Add(app, o, Command::kDoctor, "doctor", "What this machine lacks, and what to change");
  doctor->add_option("--arena", o->arena_bytes, "RAM meant for K/V, as kv_store's arena_bytes; default 1GiB")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false))
      ->type_name("SIZE");
  doctor->add_option("--data", o->data_folder, "kv_store's data folder")->type_name("DIR");
}

void AddCommonFlags(CLI::App* app, Options* o) {
  app->add_option("--worker", o->worker,
                  "unix:/path or host:port; default: the stack started by deploy/, or HGA_WORKER")
      ->type_name("ADDRESS");
  app->add_option("--timeout", o->timeout,
                  "Give up after so long; 0: never. Default: never to generate, else 10")
      ->check(CLI::Range(0.0, 1e6))
      ->type_name("SECONDS");
  app->add_flag("--json{-}", o->json,
                "Result as one JSON object, on the last line of stdout, or in --json=FILE");
  app->add_flag("--quiet,-q", o->quiet, "No progress, no statistics");
}

void AddGenerationFlags(CLI::App* app, Options* o) {
  const auto number = [app](const std::string& flag, auto* value, double low, double high,
                            const std::string& help) {
    app->add_option(flag, *value, help)->check(CLI::Range(low, high))->group("Sampling")->type_name("X");
  };
  number("--max-tokens", &o->max_tokens, 0, 1e9, "Length of the answer at most; default 256");
  number("--temperature", &o->temperature, 0, 100, "0 (default): always the likeliest token");
  number("--top-k", &o->top_k, 0, 1e9, "Sample from the k likeliest only");
  number("--top-p", &o->top_p, 0, 1, "Sample from the likeliest that have this share together");
  number("--min-p", &o->min_p, 0, 1, "Drop tokens below this share of the likeliest");
  number("--repetition-penalty", &o->repetition_penalty, 0, 100, "Above 1: repeat less");
  app->add_option("--seed", o->seed, "Equal seeds give equal answers")->group("Sampling")->type_name("N");
  app->add_option("--stop", o->stop, "End before this text; may be given up to 16 times")
      ->allow_extra_args(false)
      ->group("Sampling")
      ->type_name("TEXT");
  app->add_flag("--no-thinking", o->no_thinking, "Models that can do both answer without thoughts")->group("Sampling");
  app->add_option("--attention", o->attention, "routed: the relevant part of the history; dense: all of it")
      ->check(CLI::IsMember({"routed", "dense"}))
      ->group("Attention")
      ->type_name("MODE");
  app->add_option("--budget", o->budget, "Share of the history that routed attention may read, e.g. 0.1")
      ->check(CLI::Range(0.0, 1.0))
      ->group("Attention")
      ->type_name("X");
  app->add_option("--budget-tokens", o->budget_tokens,
                  "So many tokens of the history, however long it is, e.g. 512")
      ->check(CLI::Range(16, 1 << 20))
      ->group("Attention")
      ->type_name("N");
  app->add_option("--budget-sharing", o->budget_sharing,
                  "shared: heads and layers with more attention to give read more; fixed: all read the same")
      ->check(CLI::IsMember({"shared", "fixed"}))
      ->group("Attention")
      ->type_name("HOW");
  app->add_option("--dense-decode-tokens", o->dense_decode_tokens,
                  "Answers' tokens up to here read all of the history; default: the worker's, 0 if a budget is given")
      ->group("Attention")
      ->type_name("N");
  app->add_option("--budget-linear-tokens", o->budget_linear_tokens,
                  "From so many tokens of history on, what is read grows by the square root only; default: the "
                  "worker's, never if a budget is given")
      ->check(CLI::Range(1u, 1u << 30))
      ->group("Attention")
      ->type_name("N");
  app->add_option("--residual", o->residual,
                  "on: what is not read counts by its chunk's mean key; off: only exact keys count")
      ->check(CLI::IsMember({"on", "off"}))
      ->group("Attention")
      ->type_name("HOW");
  const auto share = [app](const std::string& flag, auto* value, double low, double high, const std::string& help) {
    app->add_option(flag, *value, help)->check(CLI::Range(low, high))->group("Attention")->type_name("X");
  };
  share("--budget-layer-cap", &o->budget_layer_cap, 1, 64, "Most that one layer may take, in budgets");
  share("--budget-step-cap", &o->budget_step_cap, 1, 64,
        "Most that the layers of an answer's token may take on average, in budgets");
  share("--budget-layer-floor", &o->budget_layer_floor, 0, 1,
        "What is left for each later layer at least, in budgets");
  share("--budget-least-share", &o->budget_least_share, 0, 1,
        "Leave keys out that promise less than so many even shares");
  share("--budget-top-p", &o->budget_top_p, 0, 1,
        "Read no more in a layer once this share of its attention is found");
}

}  // namespace

absl::Status Options::Validate() const {
  if (!worker.empty()) HGA_RETURN_IF_ERROR(ValidateAddress(worker));
  if (!health_address.empty()) HGA_RETURN_IF_ERROR(ValidateAddress(health_address));
  if (!session.empty()) HGA_RETURN_IF_ERROR(ValidateSessionName(session));
  if (append && session.empty()) return absl::InvalidArgumentError("--append needs --session NAME");
  if (!fork.empty()) HGA_RETURN_IF_ERROR(ValidateSessionName(fork));
  const bool of_one = command == Command::kSessionsDelete || command == Command::kSessionsPin ||
                      command == Command::kSessionsUnpin;
  if ((of_one && session.empty()) ||
      (command == Command::kSessionsFork && (session.empty() || fork.empty())))
    return absl::InvalidArgumentError("the name is empty");
  if (command == Command::kBench) {
    HGA_RETURN_IF_ERROR(bench.Validate());
    if (!attention.empty()) return absl::InvalidArgumentError("bench takes --modes, not --attention");
  }
  if ((budget > 0 || budget_tokens > 0) && attention == "dense")
    return absl::InvalidArgumentError("--budget and --budget-tokens have no meaning with --attention dense");
  if (budget > 0 && budget_tokens > 0)
    return absl::InvalidArgumentError("--budget and --budget-tokens exclude each other");
  if (stop.size() > 16)
    return absl::InvalidArgumentError(absl::StrCat("--stop is given ", stop.size(), " times; 16 at most"));
  for (const std::string& text : stop) {
    if (text.empty()) return absl::InvalidArgumentError("--stop must not be empty");
  }
  return absl::OkStatus();
}

std::optional<int> ParseOptions(int argc, const char* const* argv, Options* options, std::ostream& out,
                                std::ostream& err) {
  CLI::App app(kAbout, "hga");
  app.footer(kExamples)->require_subcommand(1);
  AddCommands(&app, options);
  AddCommonFlags(&app, options);
  AddGenerationFlags(&app, options);
  app.set_config("--config", "", "File of flag = value lines (TOML)");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error, out, err) == 0 ? kExitOk : kExitUsage;
  }
  const absl::Status status = options->Validate();
  if (status.ok()) return std::nullopt;
  err << "error: " << std::string(status.message()) << "\n";
  return kExitUsage;
}

namespace {

void FillAttention(const Options& options, gpu_worker::v1::Attention* out) {
  using gpu_worker::v1::Attention;
  if (options.attention == "routed") out->set_mode(Attention::MODE_ROUTED);
  if (options.attention == "dense") out->set_mode(Attention::MODE_DENSE);
  out->set_budget_fraction(options.budget);
  out->set_budget_min_tokens(options.budget_tokens);
  out->set_budget_max_tokens(options.budget_tokens);
  if (options.budget_sharing == "shared") out->set_budget_sharing(Attention::SHARING_SHARED);
  if (options.budget_sharing == "fixed") out->set_budget_sharing(Attention::SHARING_FIXED);
  if (!options.residual.empty()) out->set_residual(options.residual == "on");
  out->set_budget_layer_cap(options.budget_layer_cap);
  out->set_budget_step_cap(options.budget_step_cap);
  out->set_budget_top_p(options.budget_top_p);
  if (options.budget_layer_floor) out->set_budget_layer_floor(*options.budget_layer_floor);
  if (options.budget_least_share) out->set_budget_least_share(*options.budget_least_share);
  if (options.dense_decode_tokens) out->set_dense_decode_tokens(*options.dense_decode_tokens);
  if (options.budget_linear_tokens) out->set_budget_linear_tokens(*options.budget_linear_tokens);
}

}  // namespace

gpu_worker::v1::GenerateRequest RequestFrom(const Options& options) {
  gpu_worker::v1::GenerateRequest request;
  request.set_session(options.session);
  request.set_append(options.append);
  request.set_pin(options.pin);
  request.set_no_thinking(options.no_thinking);
  if (options.max_tokens.has_value()) request.set_max_tokens(*options.max_tokens);
  auto* sampling = request.mutable_sampling();
  sampling->set_temperature(options.temperature);
  sampling->set_top_k(options.top_k);
  sampling->set_top_p(options.top_p);
  sampling->set_min_p(options.min_p);
  sampling->set_repetition_penalty(options.repetition_penalty);
  if (options.seed.has_value()) sampling->set_seed(*options.seed);
  for (const std::string& text : options.stop) request.add_stop(text);
  FillAttention(options, request.mutable_attention());
  return request;
}

}  // namespace hga
