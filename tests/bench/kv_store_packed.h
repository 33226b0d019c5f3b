// The packed level of RAM in benchmark `kv_store`: its speed beside the arena and the disk.
#ifndef HGA_TESTS_BENCH_KV_STORE_PACKED_H_
#define HGA_TESTS_BENCH_KV_STORE_PACKED_H_

#include "tests/bench/report.h"

namespace hga {

void BenchPacked(bool quick, Report* report);

}  // namespace hga

#endif  // HGA_TESTS_BENCH_KV_STORE_PACKED_H_
