#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/doctor/diagnose.h"
#include "client/doctor/read_machine.h"

namespace hga {
namespace {

constexpr char kPackagedData[] = "/var/lib/hga/kv_store";
constexpr char kPackagedSockets[] = "/run/hga";

// The stack of deploy/stack.sh names its worker by an absolute path in its run folder; its data lies beside that.
DoctorTarget TargetOf(const Options& options, const std::string& worker) {
  DoctorTarget target;
  target.worker = worker;
  target.arena_bytes = options.arena_bytes;
  target.data_folder = kPackagedData;
  target.socket_folder = kPackagedSockets;
  if (absl::StartsWith(worker, "unix:")) {
    const std::filesystem::path sockets = std::filesystem::path(worker.substr(5)).parent_path();
    target.socket_folder = sockets.string();
    if (sockets.filename() == "run" && sockets.parent_path().filename() == ".hga") {
      target.data_folder = (sockets.parent_path() / "data/kv_store").string();
    }
  }
  if (!options.data_folder.empty()) target.data_folder = options.data_folder;
  return target;
}

}  // namespace

absl::Status RunDoctor(const Options& options, const std::string& worker, Console* console) {
  const std::vector<Finding> findings = Diagnose(ReadMachine(TargetOf(options, worker)));
  if (options.json.empty() || options.json == "-") {
    console->out << (options.json.empty() ? FindingsTable(findings) : FindingsJson(findings) + "\n") << std::flush;
  } else {
    std::ofstream file(options.json);
    file << FindingsJson(findings) << "\n";
    file.close();
    if (file.fail()) return absl::InternalError(absl::StrCat("cannot write ", options.json));
  }
  if (Worst(findings) != Level::kFail) return absl::OkStatus();
  return absl::UnknownError("something will not work as it is; see the lines that begin with fail");
}

}  // namespace hga
