// kv_store_tool: what `hga store` runs, on a stopped store, beside a kv_store that serves it or, for what changes
// something, through it.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/base/log.h"
#include "common/base/status.h"
#include "kv_store/tier/rocks_tier.h"
#include "kv_store/tier/served_at.h"
#include "kv_store/tool/import.h"
#include "kv_store/tool/maintenance.h"
#include "kv_store/tool/served_store.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

namespace fs = std::filesystem;
constexpr int kAttempts = 3;  // at a store whose blocks are moved while they are read
constexpr std::chrono::milliseconds kWatch(100);  // a compaction
constexpr char kPackagedFolder[] = "/var/lib/hga/kv_store";

struct ToolOptions {
  std::string data_dir, kv_store, session, file, as;
  bool json = false, quiet = false;
};

// What deploy/stack.sh made in this folder or one above it; else the packaged one.
std::string DefaultFolder() {
  std::error_code ignored;
  for (fs::path at = fs::current_path(ignored); !at.empty(); at = at.parent_path()) {
    if (fs::exists(at / ".hga/data/kv_store/CURRENT", ignored)) return (at / ".hga/data/kv_store").string();
    if (at == at.parent_path()) break;
  }
  return kPackagedFolder;
}

bool IsServed(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) && absl::StrContains(std::string(status.message()), "in use by another");
}

// The store as it is now, whoever serves it.
absl::StatusOr<std::unique_ptr<KvTier>> OpenReadOnly(const ToolOptions& o) {
  RocksTierOptions options;
  options.data_dir = o.data_dir;
  options.read_only = true;
  return OpenRocksTier(options);
}

absl::StatusOr<std::unique_ptr<KvTier>> Open(const ToolOptions& o, bool may_make) {
  std::error_code ignored;
  if (!may_make && !fs::exists(fs::path(o.data_dir) / "CURRENT", ignored)) {
    return absl::NotFoundError(absl::StrCat("there is no store at ", o.data_dir));
  }
  RocksTierOptions options;
  options.data_dir = o.data_dir;
  return OpenRocksTier(options);
}

// The kv_store to ask. Empty: none, the store was opened here.
absl::StatusOr<std::string> Server(const ToolOptions& o, const absl::Status& opened) {
  if (!o.kv_store.empty() || opened.ok()) return o.kv_store;
  if (!IsServed(opened)) return opened;
  const auto address = ReadServedAt(o.data_dir);
  if (address.ok()) return address;
  return absl::FailedPreconditionError(
      absl::StrCat(std::string(opened.message()), "; say with --kv_store ADDRESS where it can be asked"));
}

// On stderr, at each twentieth.
Progress Show(const ToolOptions& o, const std::string& of_what) {
  return [quiet = o.quiet, of_what, shown = uint64_t{0}](uint64_t done, uint64_t all) mutable {
    const uint64_t part = all == 0 ? 0 : done * 20 / all;
    if (quiet || part == shown) return;
    shown = part;
    std::cerr << done << " of " << all << " " << of_what << "\n";
  };
}

absl::Status Report(const ToolOptions& o, const StoreReport& r, bool read, bool served) {
  const nlohmann::json json = {{"sessions", r.sessions}, {"tokens", r.tokens}, {"chunks", r.chunks},
                               {"chunks_to_compute", r.chunks_to_compute},
                               {"chunks_of_no_session", r.chunks_of_no_session}, {"blocks", r.blocks},
                               {"block_bytes", r.block_bytes}, {"disk_bytes", r.disk_bytes}, {"blocks_read", read},
                               {"served", served}, {"problem_count", r.problem_count}, {"problems", r.problems}};
  if (o.json) {
    std::cout << json.dump() << std::endl;
  } else {
    std::cout << r.sessions << " sessions, " << r.tokens << " tokens\n"
              << r.chunks << " chunks, " << r.blocks << " blocks, " << r.block_bytes << " bytes of K/V; "
              << r.disk_bytes << " bytes on disk\n"
              << r.chunks_to_compute << " chunks to be computed again, " << r.chunks_of_no_session
              << " of no session\n";
    if (served) std::cout << "a kv_store serves it: this is what it had on disk\n";
    for (const std::string& problem : r.problems) std::cout << "damaged: " << problem << "\n";
    std::cout << (read ? "all blocks read: " : "blocks not read: ") << r.problem_count << " problems" << std::endl;
  }
  if (r.problem_count == 0) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(r.problem_count, " problems; what is damaged is never served, and computed again when asked for"));
}

absl::Status Inspect(const ToolOptions& o, bool read) {
  const Progress progress = read ? Show(o, "chunks") : nullptr;
  {
    const auto tier = Open(o, false);
    if (tier.ok()) {
      HGA_ASSIGN_OR_RETURN(const StoreReport report, InspectStore(tier->get(), read, progress));
      return Report(o, report, read, /*served=*/false);
    }
    if (!IsServed(tier.status())) return tier.status();
  }
  absl::StatusOr<StoreReport> report;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const auto tier = OpenReadOnly(o);
    report = tier.ok() ? InspectStore(tier->get(), read, progress) : tier.status();
    if (report.ok() ? report->unreadable == 0 : !absl::IsUnavailable(report.status())) break;
  }
  HGA_RETURN_IF_ERROR(report.status());
  return Report(o, *report, read, /*served=*/true);
}

// (bytes on disk before, after)
absl::StatusOr<std::pair<uint64_t, uint64_t>> CompactHere(KvTier* tier, const Progress& progress) {
  const uint64_t before = tier->Stats().disk_bytes;
  Compaction compaction;
  auto finished = std::async(std::launch::async, [&] { return tier->Compact(&compaction); });
  while (finished.wait_for(kWatch) != std::future_status::ready) progress(compaction.done_bytes, compaction.all_bytes);
  HGA_RETURN_IF_ERROR(finished.get());
  return std::make_pair(before, tier->Stats().disk_bytes);
}

absl::Status Compact(const ToolOptions& o) {
  absl::StatusOr<std::unique_ptr<KvTier>> tier;
  if (o.kv_store.empty()) tier = Open(o, false);
  HGA_ASSIGN_OR_RETURN(const std::string server, Server(o, tier.status()));
  const Progress progress = Show(o, "bytes rewritten");
  const auto compacted = server.empty() ? CompactHere(tier->get(), progress) : CompactServed(server, progress);
  HGA_RETURN_IF_ERROR(compacted.status());
  const std::pair<uint64_t, uint64_t>& bytes = *compacted;
  if (o.json) {
    std::cout << nlohmann::json({{"disk_bytes_before", bytes.first}, {"disk_bytes", bytes.second}}).dump() << std::endl;
  } else {
    std::cout << bytes.first << " bytes before, " << bytes.second << " bytes now" << std::endl;
  }
  return absl::OkStatus();
}

absl::Status Export(const ToolOptions& o) {
  auto opened = Open(o, false);
  if (IsServed(opened.status())) opened = OpenReadOnly(o);
  HGA_RETURN_IF_ERROR(opened.status());
  const std::unique_ptr<KvTier>& tier = *opened;
  // Under another name until it is whole.
  const std::string unfinished = o.file + ".part";
  std::ofstream out(unfinished, std::ios::binary | std::ios::trunc);
  absl::Status status = out ? ExportSession(tier.get(), o.session, &out)
                            : absl::UnavailableError(absl::StrCat("cannot write ", unfinished));
  out.close();
  if (status.ok() && (!out || std::rename(unfinished.c_str(), o.file.c_str()) != 0)) {
    status = absl::UnavailableError(absl::StrCat("cannot write ", o.file));
  }
  if (!status.ok()) std::remove(unfinished.c_str());
  if (status.ok()) std::cout << (o.json ? nlohmann::json({{"exported", o.session}, {"file", o.file}}).dump()
                                        : absl::StrCat("exported ", o.session, " to ", o.file)) << std::endl;
  return status;
}

absl::Status Import(const ToolOptions& o) {
  std::ifstream in(o.file, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("cannot read ", o.file));
  absl::StatusOr<std::unique_ptr<KvTier>> tier;
  if (o.kv_store.empty()) tier = Open(o, true);
  HGA_ASSIGN_OR_RETURN(const std::string server, Server(o, tier.status()));
  auto file = SessionFileReader::Open(&in);
  if (!file.ok()) return absl::Status(file.status().code(), absl::StrCat(o.file, ": ", file.status().message()));
  const Progress progress = Show(o, "chunks");
  const auto name = server.empty() ? ImportSession(tier->get(), o.as, &*file, progress)
                                   : ImportServed(server, o.as, &*file, progress);
  if (!name.ok()) return absl::Status(name.status().code(), absl::StrCat(o.file, ": ", name.status().message()));
  std::cout << (o.json ? nlohmann::json({{"imported", *name}}).dump() : absl::StrCat("imported ", *name)) << std::endl;
  return absl::OkStatus();
}

int Run(int argc, const char* const* argv) {
  ToolOptions o;
  o.data_dir = DefaultFolder();
  absl::Status status;
  CLI::App app("Looks after a store, stopped or served by a kv_store", "hga store");
  app.require_subcommand(1)->fallthrough();
  app.add_option("--data_dir,--data-dir", o.data_dir, "Folder of the store")->capture_default_str();
  app.add_option(
      "--kv_store,--kv-store", o.kv_store,
      "compact, import: the kv_store to ask, unix:/path or host:port; default: who serves --data_dir, if anyone");
  app.add_flag("--json", o.json, "The result as one JSON object");
  app.add_flag("--quiet,-q", o.quiet, "No progress");
  app.add_subcommand("verify", "Reads everything and checks it; exit code 1 if anything is damaged")
      ->callback([&] { status = Inspect(o, true); });
  app.add_subcommand("stats", "Counts, without reading blocks")->callback([&] { status = Inspect(o, false); });
  app.add_subcommand("compact", "Gives the room of what was deleted back")->callback([&] { status = Compact(o); });
  CLI::App* out = app.add_subcommand("export", "Writes a session to a file");
  out->add_option("session", o.session, "The session")->required();
  out->add_option("file", o.file, "The file")->required();
  out->callback([&] { status = Export(o); });
  CLI::App* in = app.add_subcommand("import", "Reads a session from a file");
  in->add_option("file", o.file, "The file")->required();
  in->add_option("--as", o.as, "Name to keep it under; default: its own");
  in->callback([&] { status = Import(o); });
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;  // as hga's
  }
  if (status.ok()) return 0;
  std::cerr << "error: " << std::string(status.message()) << "\n";
  return 1;
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  hga::InitLog("kv_store_tool");
  hga::SetLogLevel("warning");
  return hga::Run(argc, argv);
}
