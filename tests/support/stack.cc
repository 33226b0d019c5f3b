#include "tests/support/stack.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/check.h"
#include "common/rpc/channel.h"
#include "common/rpc/health.h"
#include "common/rpc/status.h"
#include "grpcpp/client_context.h"
#include "tests/support/health.h"
#include "tests/support/patience.h"

namespace hga {

std::string Binary(const std::string& path) {
  const char* runfiles = std::getenv("TEST_SRCDIR");
  const std::string root = runfiles == nullptr ? ".bazel/bin" : absl::StrCat(runfiles, "/hga_serve");
  return absl::StrCat(root, "/", path);
}

std::string RealModelPath() {
  const char* folder = std::getenv("HGA_MODEL_DIR");
  if (folder == nullptr || *folder == '\0') return "";
  const std::string path = absl::StrCat(folder, "/SmolLM2-135M-Instruct.Q4_1.gguf");
  return std::filesystem::exists(path) ? path : "";
}

std::string RandomText(int words, uint32_t seed) {
  static constexpr const char* kSyllables[] = {"ba", "ce", "di", "fo", "gu", "ha", "ki", "lo", "me", "nu",
                                               "pa", "re", "si", "to", "va", "we", "xi", "yo", "za", "tru"};
  std::mt19937 random(seed);
  std::string text;
  for (int i = 0; i < words; ++i) {
    for (uint32_t n = 1 + random() % 3; n > 0; --n) text += kSyllables[random() % 20];
    text += random() % 12 == 0 ? ". " : " ";
  }
  return text;
}

Stack::Stack(StackOptions options) : options_(std::move(options)) {
  char folder[] = "/tmp/hga.XXXXXX";
  HGA_CHECK(mkdtemp(folder) != nullptr);
  folder_ = folder;
  model_ = options_.model;
  if (!options_.with_metrics) return;
  for (const char* daemon : {"kv_store", "router", "gpu_worker"}) metrics_ports_[daemon] = FreePort();
}

Stack::~Stack() {
  worker = Process();
  router = Process();
  kv_store = Process();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::string Stack::log(const std::string& daemon) const { return ReadFileOrEmpty(folder_ + "/" + daemon + ".log"); }

std::vector<std::string> Stack::Command(const std::string& daemon) const {
  std::vector<std::string> argv = {Binary(daemon + "/" + daemon), "--listen=" + address(daemon),
                                   "--metrics_listen",
                                   options_.with_metrics ? absl::StrCat("127.0.0.1:", metrics_port(daemon)) : ""};
  const std::vector<std::string>* extra = &options_.worker_flags;
  if (daemon == "kv_store") {
    argv.insert(argv.end(), {"--data_dir=" + folder_ + "/data", "--arena_path=" + folder_ + "/arena",
                             "--arena_bytes=" + options_.arena_bytes});
    extra = &options_.kv_store_flags;
  } else if (daemon == "router") {
    argv.insert(argv.end(), {"--kv_store=" + address("kv_store"), "--ring_dir=" + folder_});
    extra = &options_.router_flags;
  } else {
    // Prompts of tests are short: without this neither they nor their answers would be routed.
    argv.insert(argv.end(), {"--model=" + model_, "--kv_store=" + address("kv_store"), "--dense_prefill_tokens=0",
                             "--dense_decode_tokens=0"});
    if (options_.with_router) argv.push_back("--router=" + address("router"));
  }
  argv.insert(argv.end(), extra->begin(), extra->end());
  return argv;
}

absl::Status Stack::Start() {
  if (model_.empty()) {
    model_ = folder_ + "/tiny.gguf";
    std::vector<std::string> argv = {Binary("gpu_worker/model/make_tiny_gguf"), "--out=" + model_};
    argv.insert(argv.end(), options_.tiny_model_flags.begin(), options_.tiny_model_flags.end());
    auto maker = Process::Start(argv, folder_ + "/tiny.log");
    if (!maker.ok()) return maker.status();
    const auto code = maker->Wait();
    if (!code.ok() || *code != 0) {
      return absl::InternalError("make_tiny_gguf: " + ReadFileOrEmpty(folder_ + "/tiny.log"));
    }
  }
  absl::Status status = StartKvStore();
  if (status.ok() && options_.with_router) status = StartRouter();
  if (status.ok()) status = StartWorker();
  if (!status.ok() || !options_.with_router) return status;
  return WaitForWorker([](const auto& stats) { return stats.router_attached(); });
}

absl::Status Stack::StartKvStore() { return StartDaemon("kv_store", &kv_store); }
absl::Status Stack::RestartKvStore() {
  if (absl::Status status = StartKvStore(); !status.ok()) return status;
  return WaitForWorker([](const auto& stats) { return stats.kv_store_attached(); });
}
absl::Status Stack::KillAndRestartKvStore() {
  kv_store.Signal(SIGKILL);
  if (absl::Status status = kv_store.Wait().status(); !status.ok()) return status;
  return RestartKvStore();
}
absl::Status Stack::StartRouter() { return StartDaemon("router", &router); }
absl::Status Stack::StartWorker() { return StartDaemon("gpu_worker", &worker); }

absl::Status Stack::StartDaemon(const std::string& daemon, Process* process) {
  auto started = Process::Start(Command(daemon), folder_ + "/" + daemon + ".log");
  if (!started.ok()) return started.status();
  *process = *std::move(started);
  return WaitHealthy(daemon, process);
}

absl::Status Stack::WaitHealthy(const std::string& daemon, Process* process) {
  for (Patience patience; patience.Lasts() && process->running(); absl::SleepFor(absl::Milliseconds(20))) {
    // A new channel each time: one that has failed once backs off for seconds.
    if (CheckHealth(Connect(address(daemon)), std::chrono::seconds(1)).ok()) return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat(daemon, " did not get healthy:\n", log(daemon)));
}

Answer Stack::Generate(const gpu_worker::v1::GenerateRequest& request, const std::function<bool(size_t)>& on_token) {
  const auto stub = worker_stub();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(300));
  const auto reader = stub->Generate(&context, request);
  Answer answer;
  gpu_worker::v1::GenerateEvent event;
  while (reader->Read(&event)) {
    if (event.has_started()) answer.started = event.started();
    if (event.has_finished()) answer.finished = event.finished();
    if (!event.has_token()) continue;
    answer.tokens.push_back(event.token().id());
    answer.text += event.token().text();
    if (on_token && !on_token(answer.tokens.size())) context.TryCancel();
  }
  answer.status = FromGrpc(reader->Finish());
  return answer;
}

absl::Status Stack::WaitForWorker(const std::function<bool(const gpu_worker::v1::GetStatsResponse&)>& done) {
  const auto stub = worker_stub();
  for (Patience patience; patience.Lasts(); absl::SleepFor(absl::Milliseconds(20))) {
    grpc::ClientContext context;
    gpu_worker::v1::GetStatsResponse stats;
    if (stub->GetStats(&context, {}, &stats).ok() && done(stats)) return absl::OkStatus();
  }
  return absl::DeadlineExceededError("the worker did not reach the state waited for:\n" + log("gpu_worker"));
}

absl::Status Stack::WaitForNoHolds() {
  const auto stub = kv_store_stub();
  for (Patience patience; patience.Lasts(); absl::SleepFor(absl::Milliseconds(5))) {
    grpc::ClientContext context;
    kv_store::v1::GetStatsResponse stats;
    if (stub->GetStats(&context, {}, &stats).ok() && stats.slots_held() == 0) return absl::OkStatus();
  }
  return absl::DeadlineExceededError("slots are still held:\n" + log("kv_store"));
}

absl::Status Stack::FlushToDisk() {
  // Clients release in the background; what is held is not dropped.
  if (absl::Status status = WaitForNoHolds(); !status.ok()) return status;
  grpc::ClientContext context;
  kv_store::v1::FlushRequest request;
  request.set_drop_ram(true);
  kv_store::v1::FlushResponse response;
  return FromGrpc(kv_store_stub()->Flush(&context, request, &response));
}

std::unique_ptr<gpu_worker::v1::GpuWorker::Stub> Stack::worker_stub() const {
  return gpu_worker::v1::GpuWorker::NewStub(Connect(address("gpu_worker")));
}
std::unique_ptr<kv_store::v1::KvStore::Stub> Stack::kv_store_stub() const {
  return kv_store::v1::KvStore::NewStub(Connect(address("kv_store")));
}
std::unique_ptr<router::v1::Router::Stub> Stack::router_stub() const {
  return router::v1::Router::NewStub(Connect(address("router")));
}

}  // namespace hga
