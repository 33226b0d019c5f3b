#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/commands.h"
#include "common/base/status.h"

namespace hga {

absl::StatusOr<std::string> FindGpuWorker(const std::string& self) {
  const std::filesystem::path folder = std::filesystem::path(self).parent_path();
  // Installed side by side; as the build leaves them; anywhere on the path.
  std::vector<std::string> places = {(folder / "gpu_worker").string(),
                                     (folder.parent_path() / "gpu_worker" / "gpu_worker").string()};
  const char* path = std::getenv("PATH");
  for (absl::string_view entry : absl::StrSplit(path == nullptr ? "" : path, ':', absl::SkipEmpty())) {
    places.push_back(absl::StrCat(entry, "/gpu_worker"));
  }
  for (const std::string& place : places) {
    std::error_code ignored;
    if (std::filesystem::is_regular_file(place, ignored) && ::access(place.c_str(), X_OK) == 0) return place;
  }
  return absl::NotFoundError(absl::StrCat("no gpu_worker, which reads model files; looked at ", places[0], ", ",
                                          places[1], " and on PATH"));
}

absl::Status RunGpuWorker(const Options& options) {
  std::error_code error;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe", error).string();
  HGA_ASSIGN_OR_RETURN(const std::string worker, FindGpuWorker(self));
  std::vector<std::string> arguments = {worker};
  if (options.command == Command::kSize) {
    arguments.push_back("--sizes");
  } else {
    arguments.push_back(absl::StrCat("--inspect=", options.model_path));
    arguments.push_back(absl::StrCat("--context=", options.context_tokens));
    if (!options.device_memory.empty()) arguments.push_back(absl::StrCat("--device_memory=", options.device_memory));
    if (!options.json.empty()) arguments.push_back(absl::StrCat("--json=", options.json));
  }
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  // The blocked signals would be inherited, and an interrupt be lost.
  sigset_t none;
  sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
  ::execv(worker.c_str(), argv.data());
  return absl::ErrnoToStatus(errno, absl::StrCat("cannot run ", worker));
}

}  // namespace hga
