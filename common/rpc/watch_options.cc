#include "common/rpc/watch_options.h"

#include "CLI/CLI.hpp"

namespace hga {

void AddWatchOptions(CLI::App* app, WatchOptions* options) {
  app->add_option("--log_level", options->log_level, "Lowest level that is logged: debug, info, warning or error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}));
  app->add_flag("--print_metrics", options->print_metrics, "Print the metrics page with all at 0, and exit");
}

}  // namespace hga
