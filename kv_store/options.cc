#include "kv_store/options.h"

#include <unistd.h>

#include <iostream>
#include <limits>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/arguments.h"
#include "common/base/status.h"
#include "common/kv/kv_dtype.h"
#include "common/rpc/channel.h"

namespace hga {
namespace {

struct Unit {
  const char* name;
  int shift;
};
constexpr Unit kUnits[] = {{"", 0},     {"b", 0},  {"kib", 10}, {"mib", 20}, {"gib", 30},
                           {"tib", 40}, {"k", 10}, {"m", 20},   {"g", 30},   {"t", 40}};

// Adds a flag that takes a size with a unit.
void AddBytes(CLI::App* app, const std::string& flag, uint64_t* value, const std::string& help) {
  app->add_option_function<std::string>(
         flag,
         [value](const std::string& text) {
           const auto bytes = ParseBytes(text);
           if (!bytes.ok()) throw CLI::ValidationError(std::string(bytes.status().message()));
           *value = *bytes;
         },
         help)
      ->type_name("BYTES")
      ->default_str(absl::StrCat(*value >> 20, "MiB"));
}

}  // namespace

KvStoreOptions::KvStoreOptions() : arena_path(absl::StrCat("/dev/shm/hga-arena-", ::getuid())) {}

absl::StatusOr<uint64_t> ParseBytes(const std::string& text) {
  const size_t digits = text.find_first_not_of("0123456789");
  const std::string unit = digits == std::string::npos ? "" : absl::AsciiStrToLower(text.substr(digits));
  uint64_t number = 0;
  if (absl::SimpleAtoi(text.substr(0, digits), &number)) {
    for (const Unit& u : kUnits) {
      if (unit == u.name && number <= std::numeric_limits<uint64_t>::max() >> u.shift)
        return number << u.shift;
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a size such as 512MiB or 2GiB"));
}

absl::Status KvStoreOptions::Validate() const {
  HGA_RETURN_IF_ERROR(ValidateAddress(listen));
  if (!metrics_listen.empty()) HGA_RETURN_IF_ERROR(ValidateAddress(metrics_listen));
  if (data_dir.empty()) return absl::InvalidArgumentError("--data_dir must not be empty");
  if (arena_path.empty() || arena_path[0] != '/') {
    return absl::InvalidArgumentError("--arena_path must be an absolute path; clients map the same file");
  }
  if (arena_bytes < 1 << 20 || arena_bytes > uint64_t{1} << 44) {
    return absl::InvalidArgumentError(absl::StrCat("--arena_bytes ", arena_bytes, ": must be 1MiB to 16TiB"));
  }
  if (commit_ack != "ram" && commit_ack != "disk") {
    return absl::InvalidArgumentError(absl::StrCat("--commit_ack '", commit_ack, "': must be ram or disk"));
  }
  if (writeback_queue_chunks < 1 || writeback_queue_chunks > 1000000) {
    return absl::InvalidArgumentError("--writeback_queue_chunks must be 1 to 1000000");
  }
  HGA_ASSIGN_OR_RETURN(const KvDtype dtype, ParseKvDtype(kv_dtype));
  if (packed_ram_bytes != 0 && dtype == KvDtype::kBf16) {
    return absl::InvalidArgumentError(
        "--packed_ram_bytes needs --kv_dtype fp8_e4m3 or int8: K/V of bf16 cannot be packed; give --arena_bytes the "
        "RAM");
  }
  if (packed_ram_bytes != 0 && (packed_ram_bytes < 1 << 20 || packed_ram_bytes > uint64_t{1} << 44)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--packed_ram_bytes ", packed_ram_bytes, ": must be 0 (none) or 1MiB to 16TiB"));
  }
  if (rocksdb_bytes < 8 << 20) return absl::InvalidArgumentError("--rocksdb_bytes must be at least 8MiB");
  if (disk_bytes != 0 && disk_bytes < 64 << 20) {
    return absl::InvalidArgumentError("--disk_bytes must be 0 (no bound) or at least 64MiB");
  }
  if (read_threads < 1 || read_threads > 256) {
    return absl::InvalidArgumentError("--read_threads must be 1 to 256");
  }
  if (shutdown_flush_seconds > 86400) {
    return absl::InvalidArgumentError("--shutdown_flush_seconds must be at most 86400");
  }
  return absl::OkStatus();
}

std::optional<int> ParseOptions(int argc, const char* const* argv, KvStoreOptions* o) {
  CLI::App app("kv_store: holds K/V blocks in shared memory and on disk for HGA Serve");
  app.option_defaults()->always_capture_default()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  app.set_config("--config", "", "File of flag=value lines");
  app.add_option("--listen", o->listen, "Address to serve at: unix:/path or host:port");
  app.add_option("--metrics_listen", o->metrics_listen, "Address of the metrics page; empty: none");
  AddWatchOptions(&app, &o->watch);
  app.add_option("--data_dir", o->data_dir, "Folder of the database; made 0700 where missing");
  app.add_option("--arena_path", o->arena_path, "File of the shared-memory arena");
  AddBytes(&app, "--arena_bytes", &o->arena_bytes, "Size of the arena (RAM for K/V), e.g. 16GiB");
  app.add_option("--commit_ack", o->commit_ack, "When Commit answers: ram (at once) or disk (once durable)");
  AddBytes(&app, "--rocksdb_bytes", &o->rocksdb_bytes,
           "Memory of RocksDB in all: memtables, indexes, small records");
  AddBytes(&app, "--disk_bytes", &o->disk_bytes,
           "Budget of --data_dir; sessions not used for long lose their K/V first. 0: no bound");
  app.add_option("--read_threads", o->read_threads, "Reads of the disk under way at once");
  app.add_option("--writeback_queue_chunks", o->writeback_queue_chunks,
                 "Reserve is refused while more chunks than this wait for the disk");
  app.add_option("--kv_dtype", o->kv_dtype,
                 "How blocks of bf16 are packed on disk: bf16 (not at all), or fp8_e4m3 or int8 where the worker "
                 "rounds to it");
  AddBytes(&app, "--packed_ram_bytes", &o->packed_ram_bytes,
           "RAM for blocks packed as on disk, beside the arena; needs --kv_dtype fp8_e4m3 or int8. 0: none");
  app.add_option("--pin", o->pin,
                 "Sessions, system prompts for one, that leave RAM last and keep their K/V under --disk_bytes")
      ->delimiter(',');
  AddBytes(
      &app, "--pin_bytes", &o->pin_bytes,
      "K/V, as it is in RAM, that sessions pinned by requests may have; 0: half of what --disk_bytes has for blocks");
  app.add_option("--record_trace", o->record_trace,
                 "File to record accesses in, for tests/bench/replay_trace; empty: none");
  AddBytes(&app, "--record_trace_bytes", &o->record_trace_bytes, "The recording ends at this size");
  app.add_option("--shutdown_flush_seconds", o->shutdown_flush_seconds,
                 "After SIGTERM: how long what is not on disk yet may take to get there; the rest is lost");
  app.add_option("--direct_io", o->direct_io, "Read and write the database past the page cache");
  try {
    app.parse(LastArgumentFirst(argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::Status valid = o->Validate();
  if (valid.ok()) return std::nullopt;
  std::cerr << "kv_store: " << valid.message() << "\n";
  return 2;
}

}  // namespace hga
