#include "gpu_worker/backend/cuda/device_route_client.h"

#include <algorithm>
#include <utility>

#include "common/base/log.h"
#include "common/base/status.h"

namespace hga {
namespace {

// Chunks that are read at a time: some megabytes.
constexpr size_t kReadChunks = 16;

}  // namespace

DeviceRouteClient::DeviceRouteClient(std::unique_ptr<RouteClient> router, RouteMirror* mirror,
                                     const SummaryMethod* method, SummarySource source)
    : router_(std::move(router)), rules_(*router_->rules()), mirror_(mirror), method_(method),
      source_(std::move(source)) {
  if (source_) thread_ = std::thread([this] { ReadLoop(); });
}

DeviceRouteClient::~DeviceRouteClient() {
  {
    std::lock_guard<std::mutex> lock(mu_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  for (auto& [id, sequence] : sequences_) {
    for (const uint32_t page : sequence.pages) {
      if (page != SummaryPages::kNone) mirror_->pages().Release(page);
    }
  }
}

absl::StatusOr<uint32_t> DeviceRouteClient::OpenSequence(uint64_t sequence_id, absl::Span<const ChunkHash> chunks) {
  HGA_ASSIGN_OR_RETURN(const uint32_t known, router_->OpenSequence(sequence_id, chunks));
  Drop(sequence_id);
  Sequence sequence;
  bool missing = false;
  for (const ChunkHash& chunk : chunks.first(known)) {
    sequence.chunks.push_back(chunk);
    sequence.pages.push_back(mirror_->pages().Take(chunk));
    missing |= sequence.pages.back() == SummaryPages::kNone;
  }
  std::lock_guard<std::mutex> lock(mu_);
  sequences_[sequence_id] = std::move(sequence);
  if (missing && source_) {
    to_read_.push_back(sequence_id);
    changed_.notify_all();
  }
  return known;
}

absl::Status DeviceRouteClient::AppendSummary(uint64_t sequence_id, uint32_t chunk_index, const ChunkHash& chunk,
                                              const std::string& data) {
  HGA_RETURN_IF_ERROR(router_->AppendSummary(sequence_id, chunk_index, chunk, data));
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = sequences_.find(sequence_id);
  if (found == sequences_.end() || found->second.chunks.size() != chunk_index) return absl::OkStatus();
  const uint32_t page = mirror_->pages().Put(chunk, WithExtents(mirror_->geometry(), *method_, data));
  if (page == SummaryPages::kNone) mirror_->NoteNoRoom();
  found->second.chunks.push_back(chunk);
  found->second.pages.push_back(page);
  return absl::OkStatus();
}

void DeviceRouteClient::CloseSequence(uint64_t sequence_id) {
  Drop(sequence_id);
  router_->CloseSequence(sequence_id);
}

// Its pages stay until others need them.
void DeviceRouteClient::Drop(uint64_t sequence_id) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = sequences_.find(sequence_id);
  if (found == sequences_.end()) return;
  for (const uint32_t page : found->second.pages) {
    if (page != SummaryPages::kNone) mirror_->pages().Release(page);
  }
  sequences_.erase(found);
}

// --- What the router knew before ---

void DeviceRouteClient::ReadLoop() {
  std::unique_lock<std::mutex> lock(mu_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || !to_read_.empty(); });
    if (stopping_) return;
    const uint64_t sequence_id = to_read_.front();
    to_read_.pop_front();
    reading_ = true;
    lock.unlock();
    ReadMissing(sequence_id);
    lock.lock();
    reading_ = false;
    changed_.notify_all();
  }
}

std::vector<ChunkHash> DeviceRouteClient::MissingOf(uint64_t sequence_id) {
  std::vector<ChunkHash> missing;
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = sequences_.find(sequence_id);
  if (found == sequences_.end() || stopping_) return missing;
  Sequence& s = found->second;
  for (size_t i = 0; i < s.chunks.size(); ++i) {
    if (s.pages[i] == SummaryPages::kNone) s.pages[i] = mirror_->pages().Take(s.chunks[i]);  // another one's by now
    if (s.pages[i] == SummaryPages::kNone) missing.push_back(s.chunks[i]);
  }
  return missing;
}

// A few at a time: the sequence may end, and the room may.
void DeviceRouteClient::ReadMissing(uint64_t sequence_id) {
  for (;;) {
    std::vector<ChunkHash> missing = MissingOf(sequence_id);
    if (missing.empty()) return;
    if (!mirror_->pages().HasRoom()) return mirror_->NoteNoRoom();
    missing.resize(std::min(missing.size(), kReadChunks));
    size_t got = 0;
    const absl::Status status =
        source_(missing, [&](const ChunkHash& chunk, const std::string& method, const std::string& data) {
          if (got >= missing.size() || chunk != missing[got] || method != method_->name) return;
          const uint32_t page = mirror_->pages().Put(chunk, WithExtents(mirror_->geometry(), *method_, data));
          if (page == SummaryPages::kNone) return;
          ++got;
          Adopt(sequence_id, chunk, page);
        });
    if (status.ok() && (got == missing.size() || !mirror_->pages().HasRoom())) continue;
    LogWarning("summaries are missing in the store, or of another method: the router selects for their sequence",
               {{"error", std::string(status.message())}, {"method", method_->name}});
    return;
  }
}

// Takes over the page for the chunk.
void DeviceRouteClient::Adopt(uint64_t sequence_id, const ChunkHash& chunk, uint32_t page) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = sequences_.find(sequence_id);
  if (found != sequences_.end()) {
    Sequence& s = found->second;
    const size_t at = std::find(s.chunks.begin(), s.chunks.end(), chunk) - s.chunks.begin();
    if (at < s.pages.size() && s.pages[at] == SummaryPages::kNone) {
      s.pages[at] = page;
      return;
    }
  }
  mirror_->pages().Release(page);
}

void DeviceRouteClient::WaitUntilRead() {
  std::unique_lock<std::mutex> lock(mu_);
  changed_.wait(lock, [&] { return to_read_.empty() && !reading_; });
}

// --- The exchange ---

// Whether all of the block's range lies on the device.
bool DeviceRouteClient::FillPages(const RouteBlock& block, uint32_t number) {
  std::lock_guard<std::mutex> lock(mu_);
  const auto found = sequences_.find(block.sequence_id);
  if (found == sequences_.end() || found->second.chunks.size() < block.route_upto) return false;
  Sequence& s = found->second;
  if (s.ready < block.route_upto) s.ready = mirror_->pages().ReadyUpto(s.pages, s.ready);
  if (s.ready < block.route_upto) return false;
  std::copy(s.pages.begin() + block.first_chunk(mirror_->geometry()), s.pages.begin() + block.route_upto,
            mirror_->selector().pages_of(number));
  return true;
}

bool DeviceRouteClient::StartOnDevice(const RouteRequest& request, const RouteBlock& block, absl::Status* status) {
  SketchSelector& selector = mirror_->selector();
  if (!selector.Takes(block, rules_)) return false;
  if (!selector.NeedsDevice(block)) return true;
  if (started_ >= SketchSelector::kBlocks || !FillPages(block, started_)) return false;
  *status = selector.Start(started_++, request.layer, block, rules_, mirror_->pages());
  return status->ok();
}

absl::Status DeviceRouteClient::Post(const RouteRequest& request) {
  if (!router_->connected()) return absl::UnavailableError("the router is gone");
  HGA_RETURN_IF_ERROR(mirror_->selector().Use(*method_));
  HGA_RETURN_IF_ERROR(mirror_->pages().Upload());
  forwarded_.step = request.step;
  forwarded_.layer = request.layer;
  forwarded_.blocks.clear();
  on_device_.clear();
  started_ = 0;
  uint64_t tokens_by_router = 0;
  for (const RouteBlock& block : request.blocks) {
    absl::Status status;
    on_device_.push_back(StartOnDevice(request, block, &status));
    HGA_RETURN_IF_ERROR(status);
    if (on_device_.back()) continue;
    forwarded_.blocks.push_back(block);
    tokens_by_router += block.tokens == 1;
  }
  mirror_->Count(request.blocks.size() - forwarded_.blocks.size(), tokens_by_router);
  if (started_ > 0) HGA_RETURN_IF_ERROR(mirror_->device()->Record(mirror_->answered(), DeviceStream::kRoute));
  asked_router_ = !forwarded_.blocks.empty();
  if (asked_router_) HGA_RETURN_IF_ERROR(router_->Post(forwarded_));
  posted_ = &request;
  return absl::OkStatus();
}

absl::Status DeviceRouteClient::Wait(RouteResponse* response) {
  if (posted_ == nullptr) return absl::FailedPreconditionError("Wait without Post");
  const RouteRequest& request = *std::exchange(posted_, nullptr);
  if (asked_router_) HGA_RETURN_IF_ERROR(router_->Wait(&answered_));
  if (asked_router_ && answered_.blocks.size() != forwarded_.blocks.size()) {
    return absl::DataLossError("the router answered for another number of blocks");
  }
  if (started_ > 0) HGA_RETURN_IF_ERROR(mirror_->device()->Synchronize(mirror_->answered()));
  response->step = request.step;
  response->layer = request.layer;
  response->blocks.resize(request.blocks.size());
  response->missed.resize(request.blocks.size());
  uint32_t from_router = 0, number = 0;
  for (size_t b = 0; b < request.blocks.size(); ++b) {
    if (!on_device_[b]) {
      response->blocks[b].swap(answered_.blocks[from_router]);
      response->missed[b].swap(answered_.missed[from_router++]);
      continue;
    }
    response->missed[b].clear();
    mirror_->selector().Finish(number, request.blocks[b], &response->blocks[b]);
    number += mirror_->selector().NeedsDevice(request.blocks[b]);
  }
  return absl::OkStatus();
}

}  // namespace hga
