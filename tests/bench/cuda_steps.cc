#include "tests/bench/cuda_steps.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/kv/kv_rows.h"
#include "common/kv/random_block.h"

namespace hga {
namespace {

constexpr uint32_t kLongestRun = 4;  // of keys that are selected together

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

uint64_t AvailableBytes() {
  std::ifstream file("/proc/meminfo");
  std::string name, unit;
  uint64_t kib = 0;
  while (file >> name >> kib) {
    if (name == "MemAvailable:") return kib << 10;
    std::getline(file, unit);
  }
  return 0;
}

}  // namespace

BenchArena::~BenchArena() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

absl::Status BenchArena::Make(const KvGeometry& geometry, uint64_t held_tokens) {
  geometry_ = geometry;
  chunks_ = static_cast<uint32_t>(held_tokens / geometry.chunk_tokens + 8);
  const uint64_t blocks = uint64_t{chunks_} * geometry.layers;
  bytes_ = blocks * geometry.block_bytes();
  if (bytes_ > AvailableBytes() / 10 * 9) {
    return absl::ResourceExhaustedError(
        absl::StrCat("K/V of ", held_tokens, " tokens takes ", bytes_, " bytes of host memory"));
  }
  data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    return absl::ResourceExhaustedError("no host memory for K/V");
  }
  std::mt19937 random(2);
  std::vector<uint8_t> one(geometry.block_bytes());
  FillRandomBlock(geometry, &random, one.data());
  for (uint64_t b = 0; b < blocks; ++b) {
    std::memcpy(static_cast<uint8_t*>(data_) + b * geometry.block_bytes(), one.data(), geometry.block_bytes());
  }
  return absl::OkStatus();
}

void* BenchArena::Block(uint32_t chunk, uint32_t layer) const {
  return static_cast<uint8_t*>(data_) + (size_t{chunk % chunks_} * geometry_.layers + layer) * geometry_.block_bytes();
}

void StepTimes::Add(const StepTimes& o) {
  total += o.total;
  compute += o.compute;
  attend_always += o.attend_always;
  log_sum_exp += o.log_sum_exp;
  attend_selected += o.attend_selected;
  post_attention += o.post_attention;
  logits += o.logits;
}

BenchSteps::BenchSteps(Backend* backend, const KvGeometry& geometry, const BenchArena* arena,
                       const StepOptions& options)
    : backend_(backend), geometry_(geometry), arena_(arena), options_(options),
      picked_(size_t{geometry.layers} * geometry.kv_heads) {}

void BenchSteps::AddRun(uint32_t layer, uint32_t kv_head, uint32_t first, uint32_t tokens, QueryBlock* block) const {
  const KvPlace place = PlaceInBlock(geometry_, arena_->Block(first / geometry_.chunk_tokens, layer), kv_head,
                                     first % geometry_.chunk_tokens);
  block->runs[kv_head].push_back({place.k, place.v, first, static_cast<uint16_t>(tokens), 0});
}

QueryBlock BenchSteps::BlockOf(uint32_t position, uint32_t first, uint32_t rows, uint32_t step_position) const {
  QueryBlock block;
  block.first_row = first;
  block.rows = std::min(geometry_.chunk_tokens - (position + first) % geometry_.chunk_tokens, rows - first);
  block.runs.resize(geometry_.kv_heads);
  block.finished = absl::MakeConstSpan(names_).first(step_position / geometry_.chunk_tokens);
  return block;
}

AttendPlan BenchSteps::Always(uint32_t layer, uint32_t position, uint32_t rows) const {
  AttendPlan plan;
  for (uint32_t first = 0; first < rows; first += plan.blocks.back().rows) {
    plan.blocks.push_back(BlockOf(position, first, rows, position));
    QueryBlock& block = plan.blocks.back();
    const uint32_t end = position + first + block.rows, own = position + first;
    const uint32_t window = options_.dense || own < options_.window_tokens
                                ? 0 : (own - options_.window_tokens) / geometry_.chunk_tokens * geometry_.chunk_tokens;
    for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
      if (window > 0) AddRun(layer, head, 0, geometry_.group_tokens, &block);
      for (uint32_t at = window; at < end; at += geometry_.group_tokens) {
        AddRun(layer, head, at, std::min(geometry_.group_tokens, end - at), &block);
      }
    }
  }
  return plan;
}

// Some of the head's keys before `before` are others now.
void BenchSteps::Drift(uint32_t layer, uint32_t kv_head, uint32_t before) {
  std::vector<Picked>& picked = picked_[layer * geometry_.kv_heads + kv_head];
  const auto draw = [&]() -> Picked {
    const uint32_t first = geometry_.group_tokens + random_() % (before - geometry_.group_tokens);
    const uint32_t room = geometry_.group_tokens - first % geometry_.group_tokens;
    return {first, std::min<uint32_t>({1 + static_cast<uint32_t>(random_() % kLongestRun), room, before - first})};
  };
  const size_t runs = options_.selected_keys / ((kLongestRun + 1) / 2);
  while (picked.size() < runs) picked.push_back(draw());
  const auto others = static_cast<size_t>(options_.drift * static_cast<double>(runs));
  for (size_t i = 0; i < others; ++i) picked[random_() % runs] = draw();
}

AttendPlan BenchSteps::Selected(uint32_t layer, uint32_t position, uint32_t rows) {
  AttendPlan plan;
  const uint32_t window = std::max(position, options_.window_tokens) - options_.window_tokens;
  const uint32_t before = window / geometry_.chunk_tokens * geometry_.chunk_tokens;
  if (options_.dense || options_.selected_keys == 0 || before <= geometry_.chunk_tokens) return plan;
  for (uint32_t first = 0; first < rows; first += plan.blocks.back().rows) {
    plan.blocks.push_back(BlockOf(position, first, rows, position));
    for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
      Drift(layer, head, before);
      for (const Picked& run : picked_[layer * geometry_.kv_heads + head]) {
        AddRun(layer, head, run.first, run.tokens, &plan.blocks.back());
      }
    }
  }
  return plan;
}

absl::StatusOr<StepTimes> BenchSteps::Run(uint32_t position, uint32_t rows) {
  while (names_.size() * geometry_.chunk_tokens < position + rows) {
    names_.push_back(NextChunkHash(names_.empty() ? ChunkHash() : names_.back(), {1}));
  }
  std::vector<BatchRow> batch(rows);
  std::vector<KvRow> kv(rows);
  for (uint32_t r = 0; r < rows; ++r) batch[r] = {(position + r) * 31 % 251, position + r, r + 1 == rows};
  StepTimes t;
  double last = Now();
  const double start = last;
  const auto lap = [&](double* to) {
    const double now = Now();
    *to += now - last;
    last = now;
  };
  HGA_RETURN_IF_ERROR(backend_->Begin(batch));
  for (uint32_t layer = 0; layer < geometry_.layers; ++layer) {
    for (uint32_t r = 0; r < rows; ++r) {
      kv[r] = {arena_->Block((position + r) / geometry_.chunk_tokens, layer), (position + r) % geometry_.chunk_tokens};
    }
    const AttendPlan always = Always(layer, position, rows), selected = Selected(layer, position, rows);
    const double planning = Now();
    const double excluded = planning - last;  // what the engine does is not the backend's
    last = planning;
    t.total -= excluded;
    HGA_RETURN_IF_ERROR(backend_->PreAttention(layer, kv));
    HGA_RETURN_IF_ERROR(backend_->Attend(always));
    lap(&t.attend_always);
    (void)backend_->queries();
    lap(&t.compute);
    (void)backend_->LogSumExp();
    lap(&t.log_sum_exp);
    if (!selected.blocks.empty()) HGA_RETURN_IF_ERROR(backend_->Attend(selected));
    lap(&t.attend_selected);
    HGA_RETURN_IF_ERROR(backend_->PostAttention(layer));
    lap(&t.post_attention);
  }
  std::vector<float> logits;
  HGA_RETURN_IF_ERROR(backend_->Logits(&logits));
  lap(&t.logits);
  t.total += last - start;
  return t;
}

}  // namespace hga
