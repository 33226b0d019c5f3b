#include "kv_store/store/store_metrics.h"

#include <utility>

namespace hga {
namespace {

constexpr const char* kStateNames[kSlotStates] = {"free", "reserved", "staging", "clean", "dirty", "orphan"};

}  // namespace

StoreMetrics::StoreMetrics(std::shared_ptr<prometheus::Registry> registry) : registry_(std::move(registry)) {
  auto& slots =
      prometheus::BuildGauge().Name("hga_kv_store_slots").Help("Arena slots by state").Register(*registry_);
  for (const char* state : kStateNames) slots_by_state_.push_back(&slots.Add({{"state", state}}));
  auto& fetches = prometheus::BuildCounter()
                      .Name("hga_kv_store_fetched_blocks_total")
                      .Help("Blocks asked for, by where they were found")
                      .Register(*registry_);
  totals_.push_back({&fetches.Add({{"found", "ram"}}), &StoreStats::ram_hits});
  totals_.push_back({&fetches.Add({{"found", "disk"}}), &StoreStats::disk_hits});
  totals_.push_back({&fetches.Add({{"found", "miss"}}), &StoreStats::misses});
  AddTotal("hga_kv_store_evictions_total", "Blocks dropped from RAM to make room", &StoreStats::evictions);
  AddTotal("hga_kv_store_checksum_errors_total", "Chunks given up for a bad checksum",
           &StoreStats::checksum_errors);
  AddTotal("hga_kv_store_reclaims_total", "Requests to clients to release holds", &StoreStats::reclaims);
  AddTotal("hga_kv_store_unknown_releases_total", "Released slots that were not held",
           &StoreStats::unknown_releases);
  AddTotal("hga_kv_store_written_chunks_total", "Chunks made durable", &StoreStats::chunks_written);
  AddTotal("hga_kv_store_written_bytes_total", "K/V bytes made durable", &StoreStats::bytes_written);
  AddLevel("hga_kv_store_arena_slots", "Arena slots in all", &StoreStats::slots_total);
  AddLevel("hga_kv_store_held_slots", "Slots with at least one hold", &StoreStats::slots_held);
  AddLevel("hga_kv_store_sessions", "Sessions, open nameless ones included", &StoreStats::sessions);
  AddLevel("hga_kv_store_chunks", "Chunks in the index", &StoreStats::chunks);
  AddLevel("hga_kv_store_durable_chunks", "Chunks that survive a crash", &StoreStats::chunks_durable);
  AddLevel("hga_kv_store_writeback_queue_chunks", "Chunks that wait for the disk", &StoreStats::chunks_dirty);
  AddLevel("hga_kv_store_clients", "Attached clients", &StoreStats::clients);
  AddLevel("hga_kv_store_quarantined_clients", "Clients that left and still map the arena",
           &StoreStats::clients_quarantined);
  disk_bytes_ = &prometheus::BuildGauge()
                     .Name("hga_kv_store_disk_bytes")
                     .Help("Bytes of the database on disk, an estimate")
                     .Register(*registry_)
                     .Add({});
  write_errors_ = &prometheus::BuildCounter()
                       .Name("hga_kv_store_write_errors_total")
                       .Help("Failed attempts to write to disk")
                       .Register(*registry_)
                       .Add({});
  disk_read_seconds_ = &prometheus::BuildHistogram()
                            .Name("hga_kv_store_disk_read_seconds")
                            .Help("Time to read one batch of blocks from disk")
                            .Register(*registry_)
                            .Add({}, prometheus::Histogram::BucketBoundaries{1e-4, 3e-4, 1e-3, 3e-3, 1e-2,
                                                                             3e-2, 0.1, 0.3, 1, 3});
}

void StoreMetrics::AddTotal(const char* name, const char* help, uint64_t StoreStats::*field) {
  totals_.push_back({&prometheus::BuildCounter().Name(name).Help(help).Register(*registry_).Add({}), field});
}

void StoreMetrics::AddLevel(const char* name, const char* help, uint64_t StoreStats::*field) {
  levels_.push_back({&prometheus::BuildGauge().Name(name).Help(help).Register(*registry_).Add({}), field});
}

void StoreMetrics::Update(const StoreStats& stats, uint64_t disk_bytes) {
  for (const Total& t : totals_)
    t.counter->Increment(static_cast<double>(stats.*t.field) - t.counter->Value());
  for (const Level& l : levels_) l.gauge->Set(static_cast<double>(stats.*l.field));
  for (int i = 0; i < kSlotStates; ++i) slots_by_state_[i]->Set(static_cast<double>(stats.slots[i]));
  disk_bytes_->Set(static_cast<double>(disk_bytes));
}

}  // namespace hga
