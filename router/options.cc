#include "router/options.h"

#include <algorithm>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/base/arguments.h"
#include "common/base/cores.h"
#include "common/base/status.h"
#include "common/rpc/channel.h"

namespace hga {
namespace {

// Where cores are scarce, polling takes the time from the thread that is waited for.
constexpr uint32_t kCoresToSpin = 5;

absl::Status CheckAddress(const char* flag, const std::string& address) {
  const absl::Status status = ValidateAddress(address);
  return status.ok() ? status : absl::InvalidArgumentError(absl::StrCat(flag, ": ", status.message()));
}

}  // namespace

RouterOptions::RouterOptions() : spin_us(Cores() >= kCoresToSpin ? 50 : 0) {}

absl::Status RouterOptions::Validate() const {
  HGA_RETURN_IF_ERROR(CheckAddress("--listen", listen));
  if (!metrics_listen.empty()) HGA_RETURN_IF_ERROR(CheckAddress("--metrics_listen", metrics_listen));
  if (!kv_store.empty()) HGA_RETURN_IF_ERROR(CheckAddress("--kv_store", kv_store));
  if (ring_dir.empty() || ring_dir[0] != '/') {
    return absl::InvalidArgumentError("--ring_dir must be an absolute path; workers map files in it");
  }
  if (spin_us < 0 || spin_us > 100000) return absl::InvalidArgumentError("--spin_us must be 0 to 100000");
  if (threads > 64) return absl::InvalidArgumentError("--threads must be 0 to 64");
  if (select.overprovision < 1 || select.overprovision > 64) {
    return absl::InvalidArgumentError("--overprovision must be 1 to 64");
  }
  if (cache_bytes > uint64_t{1} << 44) return absl::InvalidArgumentError("--cache_bytes must be at most 16TiB");
  if (max_sequences < 1 || max_sequences > 100000) {
    return absl::InvalidArgumentError("--max_sequences must be 1 to 100000");
  }
  return absl::OkStatus();
}

std::optional<int> ParseOptions(int argc, const char* const* argv, RouterOptions* o) {
  CLI::App app("router: selects which parts of the history each query of HGA Serve attends");
  app.option_defaults()->always_capture_default();
  app.set_config("--config", "", "File of flag=value lines");
  app.add_option("--listen", o->listen, "Address to serve at: unix:/path or host:port");
  app.add_option("--metrics_listen", o->metrics_listen, "Address of the metrics page; empty: none");
  AddWatchOptions(&app, &o->watch);
  app.add_option("--kv_store", o->kv_store, "Address of kv_store, to rebuild the index from; empty: none");
  app.add_option("--ring_dir", o->ring_dir, "Folder of the shared-memory rings; workers must see the same one");
  app.add_option("--spin_us", o->spin_us, "How long a ring's thread polls before it sleeps; 0: never");
  app.add_option("--threads", o->threads,
                 "Threads that select at a time for a worker, which waits meanwhile; 0: one per core, 8 at most");
  app.add_option("--overprovision", o->select.overprovision,
                 "Chunks kept by the first level, in multiples of what the budget needs");
  app.add_option("--scan_chunks", o->select.scan_chunks,
                 "Chunks whose tokens are scored at least; with fewer than there are it is faster and loses more");
  app.add_option("--cache_bytes", o->cache_bytes, "Memory for summaries of sequences that are closed, e.g. 1GiB")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/false));
  app.add_option("--max_sequences", o->max_sequences, "Sequences open at a time");
  try {
    app.parse(LastArgumentFirst(argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::cerr << "router: " << error.what() << "\n";
    return 2;
  }
  const absl::Status valid = o->Validate();
  if (valid.ok()) return std::nullopt;
  std::cerr << "router: " << valid.message() << "\n";
  return 2;
}

}  // namespace hga
