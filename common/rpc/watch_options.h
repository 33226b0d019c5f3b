// Flags that every daemon has for being watched.
#ifndef HGA_COMMON_RPC_WATCH_OPTIONS_H_
#define HGA_COMMON_RPC_WATCH_OPTIONS_H_

#include <string>

namespace CLI {
class App;
}

namespace hga {

struct WatchOptions {
  std::string log_level = "info";
  bool print_metrics = false;
};

// --log_level, whose value is checked here, and --print_metrics.
void AddWatchOptions(CLI::App* app, WatchOptions* options);

}  // namespace hga

#endif  // HGA_COMMON_RPC_WATCH_OPTIONS_H_
