// Command line and configuration of the kv_store daemon.
#ifndef HGA_KV_STORE_OPTIONS_H_
#define HGA_KV_STORE_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/rpc/watch_options.h"

namespace hga {

struct KvStoreOptions {
  KvStoreOptions();

  std::string listen = "unix:/run/hga/kv_store.sock";
  std::string metrics_listen = "127.0.0.1:9101";
  WatchOptions watch;
  std::string data_dir = "/var/lib/hga/kv_store";
  std::string arena_path;  // /dev/shm/hga-arena-<uid>
  uint64_t arena_bytes = 512ull << 20;
  std::string commit_ack = "ram";  // or "disk"
  uint64_t rocksdb_bytes = 256ull << 20;
  uint64_t disk_bytes = 0;  // 0: no bound
  uint32_t read_threads = 32;
  uint32_t writeback_queue_chunks = 256;
  // After SIGTERM; with the drain before it, within the 10 s that most supervisors give.
  uint32_t shutdown_flush_seconds = 5;
  bool direct_io = true;
  std::string kv_dtype = "bf16";
  uint64_t packed_ram_bytes = 0;  // 0: none
  std::vector<std::string> pin;  // names of sessions
  uint64_t pin_bytes = 0;  // 0: half of what disk_bytes has for blocks
  std::string record_trace;  // file; empty: none
  uint64_t record_trace_bytes = 256ull << 20;

  // INVALID_ARGUMENT names the flag.
  absl::Status Validate() const;
};

// "64MiB", "2GiB", "4096": binary units, a bare number is bytes.
absl::StatusOr<uint64_t> ParseBytes(const std::string& text);

// Fills `options`. A value: the process is to exit with it (--help, or an error that has been printed).
std::optional<int> ParseOptions(int argc, const char* const* argv, KvStoreOptions* options);

}  // namespace hga

#endif  // HGA_KV_STORE_OPTIONS_H_
