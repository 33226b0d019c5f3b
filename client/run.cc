#include "client/run.h"

#include <filesystem>

#include "client/commands.h"
#include "client/connection.h"
#include "client/exit_code.h"
#include "client/options.h"
#include "common/base/status.h"

namespace hga {
namespace {

absl::Status Dispatch(const Call& call) {
  switch (call.options.command) {
    case Command::kAsk:
      return RunAsk(call);
    case Command::kChat:
      return RunChat(call);
    case Command::kGenerate:
      return RunGenerate(call);
    case Command::kPrefill:
      return RunPrefill(call);
    case Command::kSessionsList:
      return RunSessionsList(call);
    case Command::kSessionsDelete:
      return RunSessionsDelete(call);
    case Command::kSessionsFork:
      return RunSessionsFork(call);
    case Command::kSessionsPin:
      return RunSessionsPin(call, true);
    case Command::kSessionsUnpin:
      return RunSessionsPin(call, false);
    case Command::kExplain:
      return RunExplain(call);
    case Command::kBench:
      return RunBench(call);
    case Command::kStats:
      return RunStats(call);
    case Command::kModel:
      return RunModel(call);
    case Command::kModelInspect:
    case Command::kHealth:
    case Command::kDoctor:
    case Command::kSize:
    case Command::kStore:
      break;  // need no worker; see below
  }
  return absl::InternalError("unknown command");
}

absl::Status ConnectAndDispatch(const Options& options, Console* console, Interrupt* interrupt) {
  if (options.command == Command::kModelInspect || options.command == Command::kSize) return RunGpuWorker(options);
  if (options.command == Command::kStore) return RunStore(options);
  std::error_code ignored;
  const std::string address = options.worker.empty()
                                  ? DefaultWorkerAddress(std::filesystem::current_path(ignored).string())
                                  : options.worker;
  if (options.command == Command::kHealth) {
    return RunHealth(options, options.health_address.empty() ? address : options.health_address, console);
  }
  if (options.command == Command::kDoctor) return RunDoctor(options, address, console);
  HGA_ASSIGN_OR_RETURN(const auto stub, ConnectToWorker(address));
  return Dispatch({options, stub.get(), console, interrupt});
}

}  // namespace

int RunClient(int argc, const char* const* argv, Console* console, Interrupt* interrupt) {
  Options options;
  const auto exit = ParseOptions(argc, argv, &options, console->out, console->err);
  if (exit.has_value()) return *exit;
  absl::Status status = ConnectAndDispatch(options, console, interrupt);
  if (interrupt->triggered()) return kExitInterrupted;
  if (!status.ok()) console->err << Explain(status) << std::flush;
  return ExitCodeOf(status);
}

}  // namespace hga
