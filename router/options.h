// Command line and configuration of the router daemon.
#ifndef HGA_ROUTER_OPTIONS_H_
#define HGA_ROUTER_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "common/rpc/watch_options.h"
#include "router/index/select.h"

namespace hga {

struct RouterOptions {
  RouterOptions();

  std::string listen = "unix:/run/hga/router.sock";
  std::string metrics_listen = "127.0.0.1:9102";
  WatchOptions watch;
  std::string kv_store;  // empty: summaries come from workers only
  std::string ring_dir = "/dev/shm";
  int spin_us;  // 0 on 4 cores or fewer, else 50
  uint32_t threads = 0;  // that select at a time for a worker; 0: one per core, 8 at most
  SelectOptions select;
  uint64_t cache_bytes = uint64_t{256} << 20;
  uint32_t max_sequences = 1024;

  // INVALID_ARGUMENT names the flag.
  absl::Status Validate() const;
};

// Fills `options`. A value: the process is to exit with it (--help, or an error that has been printed).
std::optional<int> ParseOptions(int argc, const char* const* argv, RouterOptions* options);

}  // namespace hga

#endif  // HGA_ROUTER_OPTIONS_H_
