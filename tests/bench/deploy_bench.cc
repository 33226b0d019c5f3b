// Benchmark `deploy`: what being watched costs.
#include <chrono>
#include <cstdio>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/machine_limits.h"
#include "common/base/status.h"
#include "kv_store/client/grpc_kv_client.h"
#include "tests/bench/metrics_overhead.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/report.h"
#include "tests/support/health.h"
#include "tests/support/stack.h"

ABSL_FLAG(std::string, model, "", "GGUF file of SmolLM2-135M-Instruct");
ABSL_FLAG(bool, quick, false, "fewer repetitions");

namespace hga {
namespace {

constexpr int kSessions = 1000;
constexpr const char* kDaemons[] = {"kv_store", "router", "gpu_worker"};

struct Scrape {
  double ms = 0, bytes = 0;
};

absl::StatusOr<Scrape> MeasureScrape(const Stack& stack, const std::string& daemon, int repetitions) {
  std::vector<double> ms;
  Scrape scrape;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    const std::string page = ScrapeMetrics(stack.metrics_port(daemon));
    ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    if (page.find("# HELP hga_") == std::string::npos) return absl::InternalError(daemon + ": no metrics page");
    scrape.bytes = static_cast<double>(page.size());
  }
  scrape.ms = Quantile(&ms, 0.5);
  return scrape;
}

absl::Status MakeSessions(const Stack& stack) {
  GrpcKvClientOptions options;
  options.address = stack.address("kv_store");
  options.client_name = "deploy_bench";
  HGA_ASSIGN_OR_RETURN(const auto client, GrpcKvClient::Attach(options));
  for (int i = 0; i < kSessions; ++i) {
    HGA_ASSIGN_OR_RETURN(const auto session, client->OpenSession(absl::StrCat("session-", i), ModelFingerprint(), {}));
    HGA_RETURN_IF_ERROR(client->UpdateSession(session, {}, {1, 2, 3}));
    HGA_RETURN_IF_ERROR(client->CloseSession(session));
  }
  HGA_ASSIGN_OR_RETURN(const auto stats, client->GetStats());
  if (stats.sessions != kSessions) {
    return absl::InternalError(absl::StrCat("the store has ", stats.sessions, " sessions"));
  }
  return absl::OkStatus();
}

absl::Status MeasureScrapes(const std::string& model, bool quick, Report* report) {
  StackOptions options;
  options.model = model;
  options.with_metrics = true;
  Stack stack(options);
  HGA_RETURN_IF_ERROR(stack.Start());
  const int repetitions = quick ? 20 : 200;
  double empty_ms = 0, total_ms = 0;
  for (const char* daemon : kDaemons) {
    HGA_ASSIGN_OR_RETURN(const Scrape scrape, MeasureScrape(stack, daemon, repetitions));
    empty_ms += scrape.ms;
  }
  HGA_RETURN_IF_ERROR(MakeSessions(stack));
  for (const char* daemon : kDaemons) {
    HGA_ASSIGN_OR_RETURN(const Scrape scrape, MeasureScrape(stack, daemon, repetitions));
    report->Add(absl::StrCat("scrape_ms_", daemon), absl::StrCat("scrape of ", daemon, ", 1000 sessions"), scrape.ms,
                "ms");
    report->Add(absl::StrCat("scrape_bytes_", daemon), "  its page", scrape.bytes, "bytes");
    total_ms += scrape.ms;
  }
  report->Add("scrape_ms_0_sessions", "scrape of all three, no session", empty_ms, "ms");
  report->Add("scrape_ms_1000_sessions", "scrape of all three, 1000 sessions", total_ms, "ms");
  return absl::OkStatus();
}

absl::Status Run() {
  const std::string model = absl::GetFlag(FLAGS_model);
  const bool quick = absl::GetFlag(FLAGS_quick);
  Report report;
  std::printf("%s\n", MachineName().c_str());
  HGA_RETURN_IF_ERROR(MeasureScrapes(model, quick, &report));
  HGA_RETURN_IF_ERROR(MeasureMetricsOverhead(model, quick, &report));
  return WriteNumbers(report);
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  hga::SetLogLevel("error");  // a line for each request would bury the table
  return hga::ExitCode(hga::Run());
}
