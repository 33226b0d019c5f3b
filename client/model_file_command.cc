#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/commands.h"
#include "common/base/status.h"

namespace hga {
namespace {

// `built`: its path below the folder that the build leaves binaries in.
absl::StatusOr<std::string> FindBinary(const std::string& self, const std::string& built, const std::string& what_for) {
  const std::filesystem::path folder = std::filesystem::path(self).parent_path();
  const std::string name = std::filesystem::path(built).filename().string();
  // Installed side by side; as the build leaves them; anywhere on the path.
  std::vector<std::string> places = {(folder / name).string(), (folder.parent_path() / built).string()};
  const char* path = std::getenv("PATH");
  for (absl::string_view entry : absl::StrSplit(path == nullptr ? "" : path, ':', absl::SkipEmpty())) {
    places.push_back(absl::StrCat(entry, "/", name));
  }
  for (const std::string& place : places) {
    std::error_code ignored;
    if (std::filesystem::is_regular_file(place, ignored) && ::access(place.c_str(), X_OK) == 0) return place;
  }
  return absl::NotFoundError(
      absl::StrCat("no ", name, ", which ", what_for, "; looked at ", places[0], ", ", places[1], " and on PATH"));
}

std::string Self() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).string();
}

// Returns only if it cannot be started.
absl::Status Become(std::vector<std::string> arguments) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  // The blocked signals would be inherited, and an interrupt be lost.
  sigset_t none;
  sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
  ::execv(argv[0], argv.data());
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot run ", arguments[0]));
}

}  // namespace

absl::Status RunGpuWorker(const Options& options) {
  HGA_ASSIGN_OR_RETURN(const std::string worker, FindBinary(Self(), "gpu_worker/gpu_worker", "reads model files"));
  std::vector<std::string> arguments = {worker};
  if (options.command == Command::kSize) {
    arguments.push_back("--sizes");
  } else {
    arguments.push_back(absl::StrCat("--inspect=", options.model_path));
    arguments.push_back(absl::StrCat("--context=", options.context_tokens));
    if (!options.device_memory.empty()) arguments.push_back(absl::StrCat("--device_memory=", options.device_memory));
    if (!options.json.empty()) arguments.push_back(absl::StrCat("--json=", options.json));
  }
  return Become(std::move(arguments));
}

absl::Status RunStore(const Options& options) {
  HGA_ASSIGN_OR_RETURN(const std::string tool, FindBinary(Self(), "kv_store/tool/kv_store_tool", "reads the store"));
  std::vector<std::string> arguments = {tool};
  arguments.insert(arguments.end(), options.store_arguments.begin(), options.store_arguments.end());
  return Become(std::move(arguments));
}

}  // namespace hga
