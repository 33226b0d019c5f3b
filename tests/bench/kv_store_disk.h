// The disk half of benchmark `kv_store`: the tier beside the raw disk, and restarts of a large store.
#ifndef HGA_TESTS_BENCH_KV_STORE_DISK_H_
#define HGA_TESTS_BENCH_KV_STORE_DISK_H_

#include "tests/bench/report.h"

namespace hga {

// Writes a store (10 GB; quick: 1 GB) of 128 KiB blocks, reads it cold, restarts it, deletes half of it. Keys:
// write_back_ratio, disk_read_ratio, restart_s, write_amplification, space_amplification and more.
void BenchDisk(bool quick, Report* report);

// Fills an index (1,000,000 chunks in 100,000 sessions; quick: a tenth) and opens sessions in it. Keys:
// index_bytes_per_chunk, open_p99_ms and more.
void BenchIndex(bool quick, Report* report);

}  // namespace hga

#endif  // HGA_TESTS_BENCH_KV_STORE_DISK_H_
