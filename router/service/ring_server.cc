#include "router/service/ring_server.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"

namespace hga {
namespace {

constexpr char kPrefix[] = "hga-ring-";

// "hga-ring-<pid>-<worker>" of a process that does not run.
bool IsStaleRing(const std::string& name) {
  if (!absl::StartsWith(name, kPrefix)) return false;
  const std::string rest = name.substr(sizeof(kPrefix) - 1);
  pid_t pid = 0;
  if (!absl::SimpleAtoi(rest.substr(0, rest.find('-')), &pid) || pid <= 0) return false;
  return ::kill(pid, 0) != 0 && errno == ESRCH;
}

}  // namespace

void RemoveStaleRings(const std::string& ring_dir) {
  std::error_code error;
  for (std::filesystem::directory_iterator it(ring_dir, error), end; !error && it != end; it.increment(error)) {
    if (!IsStaleRing(it->path().filename().string())) continue;
    LogInfo("removing the ring of a router that is gone", {{"path", it->path().string()}});
    std::error_code ignored;
    std::filesystem::remove(it->path(), ignored);
  }
}

absl::StatusOr<std::unique_ptr<RingServer>> RingServer::Start(const std::string& ring_dir, uint64_t worker_id,
                                                              uint64_t slot_bytes, int spin_us,
                                                              std::unique_ptr<RouteAnswerer> answerer,
                                                              RouterMetrics* metrics) {
  std::string path = absl::StrCat(ring_dir, "/", kPrefix, ::getpid(), "-", worker_id);
  HGA_ASSIGN_OR_RETURN(ServerRing ring, ServerRing::Create(path, slot_bytes, spin_us));
  std::unique_ptr<RingServer> server(
      new RingServer(std::move(path), std::move(ring), std::move(answerer), metrics));
  server->thread_ = std::thread(&RingServer::Loop, server.get());
  return server;
}

RingServer::RingServer(std::string path, ServerRing ring, std::unique_ptr<RouteAnswerer> answerer,
                       RouterMetrics* metrics)
    : path_(std::move(path)), ring_(std::move(ring)), answerer_(std::move(answerer)), metrics_(metrics) {}

RingServer::~RingServer() {
  ring_.Close();
  thread_.join();
  ::unlink(path_.c_str());
}

void RingServer::Loop() {
  while (true) {
    const auto request = ring_.WaitPosted(absl::InfiniteDuration());
    if (request.ok()) {
      AnswerOne(*request);
    } else if (!absl::IsDeadlineExceeded(request.status())) {
      return;
    }
  }
}

void RingServer::AnswerOne(absl::Span<const uint8_t> request) {
  const auto start = std::chrono::steady_clock::now();
  absl::Status status = answerer_->Answer(request);
  const absl::Status sent = ring_.Answer([&](absl::Span<uint8_t> slot) -> absl::StatusOr<size_t> {
    HGA_RETURN_IF_ERROR(status);
    const auto bytes = EncodeRouteResponse(answerer_->geometry(), answerer_->response(), slot);
    status = bytes.status();
    return bytes;
  });
  if (status.ok()) status = sent;
  metrics_->CountExchange(metrics_->ring(), status, std::chrono::steady_clock::now() - start,
                          answerer_->response().blocks.size(), answerer_->TakeTimes());
}

}  // namespace hga
