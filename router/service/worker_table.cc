#include "router/service/worker_table.h"

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "common/rpc/limits.h"
#include "common/kv/proto_geometry.h"

namespace hga {
namespace {

constexpr size_t kMaxWorkers = 64;
constexpr size_t kMaxName = 128;

absl::StatusOr<Worker> CheckedWorker(const router::v1::AttachRequest& request) {
  Worker worker;
  worker.geometry = GeometryFromProto(request.geometry());
  HGA_RETURN_IF_ERROR(worker.geometry.Validate());
  const auto method = FindSummaryMethod(request.method(), worker.geometry, request.channel_energies());
  if (absl::IsNotFound(method.status())) return absl::InvalidArgumentError(method.status().message());
  HGA_RETURN_IF_ERROR(method.status());
  worker.method = *method;
  // One chunk's summary has to fit a message, with room for the rest of it.
  const size_t bytes = worker.method->chunk_bytes(worker.geometry);
  if (bytes > kMaxMessageBytes / 2) {
    return absl::InvalidArgumentError(absl::StrCat("a chunk's summary would take ", bytes, " bytes, at most ",
                                                   kMaxMessageBytes / 2));
  }
  if (request.worker_name().size() > kMaxName) return absl::InvalidArgumentError("worker_name is too long");
  worker.name = request.worker_name().empty() ? "worker" : request.worker_name();
  if (!ValidateSessionName(worker.name).ok()) {
    return absl::InvalidArgumentError("worker_name: letters, digits, '.', '_' and '-' only");
  }
  return worker;
}

}  // namespace

// Ids start at a random place: a worker of an earlier router cannot be taken for one of this router's.
WorkerTable::WorkerTable(const RouterServiceOptions& options, SummaryIndex* index, RouterMetrics* metrics)
    : options_(options), index_(index), metrics_(metrics), next_id_((uint64_t{std::random_device()()} << 24) + 1) {}

absl::StatusOr<std::shared_ptr<const Worker>> WorkerTable::Add(const router::v1::AttachRequest& request) {
  HGA_ASSIGN_OR_RETURN(Worker checked, CheckedWorker(request));
  auto worker = std::make_shared<Worker>(std::move(checked));
  {
    std::lock_guard<std::mutex> lock(mu_);
    if (workers_.size() >= kMaxWorkers) {
      return absl::ResourceExhaustedError(absl::StrCat("the router serves ", kMaxWorkers, " workers already"));
    }
    worker->id = next_id_++;
  }
  if (request.want_ring()) {
    HGA_ASSIGN_OR_RETURN(worker->ring,
                         RingServer::Start(options_.ring_dir, worker->id, request.ring_slot_bytes(), options_.spin_us,
                                           NewAnswerer(*worker), metrics_));
  }
  LogInfo("worker attached",
          {{"worker", worker->name}, {"id", worker->id}, {"transport", worker->ring == nullptr ? "stream" : "ring"}});
  std::lock_guard<std::mutex> lock(mu_);
  workers_[worker->id] = worker;
  metrics_->SetWorkers(workers_.size());
  return std::shared_ptr<const Worker>(std::move(worker));
}

void WorkerTable::Remove(uint64_t worker_id) {
  std::shared_ptr<const Worker> worker;  // outlives the lock: its ring's thread is joined without it
  {
    std::lock_guard<std::mutex> lock(mu_);
    const auto found = workers_.find(worker_id);
    if (found == workers_.end()) return;
    worker = std::move(found->second);
    workers_.erase(found);
    metrics_->SetWorkers(workers_.size());
  }
  index_->CloseWorker(worker_id);
  metrics_->SetIndex(index_->totals());
  LogInfo("worker left", {{"worker", worker->name}, {"id", worker_id}});
}

absl::StatusOr<std::shared_ptr<const Worker>> WorkerTable::Find(uint64_t worker_id) const {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = workers_.find(worker_id);
  if (found == workers_.end()) return absl::NotFoundError(absl::StrCat("no worker ", worker_id, "; attach first"));
  return found->second;
}

std::unique_ptr<RouteAnswerer> WorkerTable::NewAnswerer(const Worker& worker) const {
  return std::make_unique<RouteAnswerer>(index_, worker.id, worker.geometry, options_.select,
                                         options_.threads);
}

void WorkerTable::FillRules(router::v1::Attached* attached) const {
  if (!Reproducible(options_.select)) return;
  router::v1::SelectRules* rules = attached->mutable_rules();
  rules->set_overprovision(options_.select.overprovision);
  rules->set_scan_chunks(options_.select.scan_chunks);
  rules->set_arithmetic(router::v1::SelectRules::ARITHMETIC_WEIGHTS_16);
}

}  // namespace hga
