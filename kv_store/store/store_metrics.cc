#include "kv_store/store/store_metrics.h"

#include <algorithm>
#include <utility>

namespace hga {
namespace {

constexpr const char* kStateNames[kSlotStates] = {"free", "reserved", "staging", "clean", "dirty", "orphan"};

}  // namespace

StoreMetrics::StoreMetrics(std::shared_ptr<prometheus::Registry> registry) : make_(std::move(registry)) {
  DeclareStore();
  DeclareTier();
  arena_bytes_ = make_.AddGauge("hga_kv_store_arena_bytes", "Size of the arena: RAM for K/V; 0 until a worker came");
  fetch_seconds_ = make_.AddHistogram("hga_kv_store_fetch_seconds",
                                      "Time to answer a Fetch, reading from disk included", ShortSeconds());
  disk_read_seconds_ = make_.AddHistogram("hga_kv_store_disk_read_seconds",
                                          "Time to read one batch of blocks from disk", ShortSeconds());
  write_seconds_ = make_.AddHistogram("hga_kv_store_write_seconds",
                                      "Time to make one batch of chunks durable, retries included", ShortSeconds());
  write_errors_ = make_.AddCounter("hga_kv_store_write_errors_total", "Failed attempts to write to disk");
  ring_exchanges_ = make_.AddCounter("hga_kv_store_ring_exchanges_total",
                                     "Messages of fetches and releases that came over shared memory, not by gRPC");
}

void StoreMetrics::DeclareStore() {
  for (int i = 0; i < kSlotStates; ++i) {
    levels_.push_back({make_.AddGauge("hga_kv_store_slots", "Arena slots by state", {{"state", kStateNames[i]}}),
                       [i](const StoreStats& s, const TierStats&) { return static_cast<double>(s.slots[i]); }});
  }
  const char* const fetched = "hga_kv_store_fetched_blocks_total";
  const char* const fetched_help = "Blocks asked for, by the tier they were found in";
  AddTotal(fetched, fetched_help, &StoreStats::ram_hits, {{"tier", "ram"}});
  AddTotal(fetched, fetched_help, &StoreStats::packed_ram_hits, {{"tier", "packed_ram"}});
  AddTotal(fetched, fetched_help, &StoreStats::disk_hits, {{"tier", "disk"}});
  AddTotal(fetched, fetched_help, &StoreStats::misses, {{"tier", "miss"}});
  AddTotal("hga_kv_store_evictions_total", "Blocks dropped from RAM to make room", &StoreStats::evictions);
  AddTotal("hga_kv_store_checksum_errors_total", "Chunks given up for a bad checksum",
           &StoreStats::checksum_errors);
  AddTotal("hga_kv_store_budget_evicted_sessions_total", "Sessions whose K/V was given up to keep --disk_bytes",
           &StoreStats::budget_evicted_sessions);
  AddTotal("hga_kv_store_budget_evicted_chunks_total", "Chunks given up to keep --disk_bytes",
           &StoreStats::budget_evicted_chunks);
  AddTotal("hga_kv_store_ram_checksum_errors_total", "Blocks in RAM that a sample found damaged",
           &StoreStats::ram_checksum_errors);
  AddTotal("hga_kv_store_garbage_chunks_total", "Chunks of no session, found at start and deleted",
           &StoreStats::garbage_chunks);
  AddTotal("hga_kv_store_damaged_records_total", "Records found damaged at start", &StoreStats::damaged_records);
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
}

void StoreMetrics::DeclareTier() {
  AddLevel("hga_kv_store_disk_bytes", "Bytes of the database on disk", &TierStats::disk_bytes);
  AddLevel("hga_kv_store_device_bytes", "Size of the file system that the database lies on",
           &TierStats::device_bytes);
  AddLevel("hga_kv_store_device_free_bytes", "What is free of it", &TierStats::device_free_bytes);
  AddLevel("hga_kv_store_disk_garbage_bytes", "Of these, bytes of deleted blocks", &TierStats::garbage_bytes);
  AddLevel("hga_kv_store_rocksdb_memory_bytes", "RocksDB's memory: cache, write buffers, table readers",
           &TierStats::memory_bytes);
  AddLevel("hga_kv_store_rocksdb_memory_budget_bytes", "What --rocksdb_bytes allows of it",
           &TierStats::memory_budget_bytes);
  AddLevel("hga_kv_store_rocksdb_memtable_bytes", "RocksDB's write buffers", &TierStats::memtable_bytes);
  AddLevel("hga_kv_store_rocksdb_block_cache_bytes", "RocksDB's cache in use", &TierStats::block_cache_bytes);
  AddLevel("hga_kv_store_rocksdb_pending_compaction_bytes", "Bytes that RocksDB has yet to compact, an estimate",
           &TierStats::pending_compaction_bytes);
  AddLevel("hga_kv_store_rocksdb_running_compactions", "Compactions under way", &TierStats::running_compactions);
  AddLevel("hga_kv_store_rocksdb_running_flushes", "Flushes under way", &TierStats::running_flushes);
  AddLevel("hga_kv_store_packed_ram_bytes", "K/V packed to 8 bits in RAM, before the disk",
           &TierStats::packed_ram_bytes);
  AddLevel("hga_kv_store_packed_ram_budget_bytes", "What --packed_ram_bytes allows of it",
           &TierStats::packed_ram_budget_bytes);
  AddLevel("hga_kv_store_packed_ram_blocks", "Blocks packed in RAM", &TierStats::packed_ram_blocks);
  AddTotal("hga_kv_store_packed_ram_evictions_total", "Packed blocks dropped from RAM to make room",
           &TierStats::packed_ram_evictions);
  AddTotal("hga_kv_store_packed_ram_checksum_errors_total",
           "Packed blocks found damaged in RAM, read from disk instead", &TierStats::packed_ram_checksum_errors);
  AddTotal("hga_kv_store_rocksdb_read_bytes_total", "Bytes read from RocksDB's blob files", &TierStats::read_bytes);
  const char* const written = "hga_kv_store_rocksdb_written_bytes_total";
  const char* const written_help = "Bytes that RocksDB wrote, by what for";
  AddTotal(written, written_help, &TierStats::wal_written_bytes, {{"for", "wal"}});
  AddTotal(written, written_help, &TierStats::flush_written_bytes, {{"for", "flush"}});
  AddTotal(written, written_help, &TierStats::compaction_written_bytes, {{"for", "compaction"}});
  AddTotal("hga_kv_store_rocksdb_relocated_bytes_total", "Bytes of live blocks moved to free the room of dead ones",
           &TierStats::relocated_bytes);
  AddTotal("hga_kv_store_rocksdb_compaction_read_bytes_total", "Bytes read by compactions",
           &TierStats::compaction_read_bytes);
  const char* const cache = "hga_kv_store_rocksdb_block_cache_total";
  const char* const cache_help = "Lookups in RocksDB's cache of indexes and small records";
  AddTotal(cache, cache_help, &TierStats::block_cache_hits, {{"result", "hit"}});
  AddTotal(cache, cache_help, &TierStats::block_cache_misses, {{"result", "miss"}});
  totals_.push_back({make_.AddCounter("hga_kv_store_rocksdb_stall_seconds_total",
                                      "Time that writes were held up by flushes and compactions"),
                     [](const StoreStats&, const TierStats& t) { return static_cast<double>(t.stall_micros) / 1e6; }});
}

void StoreMetrics::AddTotal(const char* name, const char* help, uint64_t StoreStats::*field,
                            const MetricLabels& labels) {
  totals_.push_back({make_.AddCounter(name, help, labels),
                     [field](const StoreStats& s, const TierStats&) { return static_cast<double>(s.*field); }});
}

void StoreMetrics::AddTotal(const char* name, const char* help, uint64_t TierStats::*field,
                            const MetricLabels& labels) {
  totals_.push_back({make_.AddCounter(name, help, labels),
                     [field](const StoreStats&, const TierStats& t) { return static_cast<double>(t.*field); }});
}

void StoreMetrics::AddLevel(const char* name, const char* help, uint64_t StoreStats::*field) {
  levels_.push_back({make_.AddGauge(name, help),
                     [field](const StoreStats& s, const TierStats&) { return static_cast<double>(s.*field); }});
}

void StoreMetrics::AddLevel(const char* name, const char* help, uint64_t TierStats::*field) {
  levels_.push_back({make_.AddGauge(name, help),
                     [field](const StoreStats&, const TierStats& t) { return static_cast<double>(t.*field); }});
}

void StoreMetrics::Update(const StoreStats& stats, const TierStats& tier) {
  for (const auto& total : totals_) {
    total.metric->Increment(std::max(0.0, total.value(stats, tier) - total.metric->Value()));
  }
  for (const auto& level : levels_) level.metric->Set(level.value(stats, tier));
}

}  // namespace hga
