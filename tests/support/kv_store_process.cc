#include "tests/support/kv_store_process.h"

#include <signal.h>
#include <stdlib.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/check.h"
#include "common/rpc/channel.h"
#include "common/rpc/health.h"
#include "tests/support/patience.h"

namespace hga {

KvStoreProcess::KvStoreProcess(std::vector<std::string> flags) : flags_(std::move(flags)) {
  char folder[] = "/tmp/hga.XXXXXX";
  HGA_CHECK(::mkdtemp(folder) != nullptr);
  folder_ = folder;
}

KvStoreProcess::~KvStoreProcess() {
  process_ = Process();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

absl::Status KvStoreProcess::Start() {
  const char* runfiles = std::getenv("TEST_SRCDIR");
  const std::string root = runfiles == nullptr ? ".bazel/bin" : absl::StrCat(runfiles, "/hga_serve");
  std::vector<std::string> argv = {absl::StrCat(root, "/kv_store/kv_store"), "--listen=" + address(),
                                   "--metrics_listen", "", "--data_dir=" + data_dir(),
                                   "--arena_path=" + folder_ + "/arena"};
  argv.insert(argv.end(), flags_.begin(), flags_.end());
  auto started = Process::Start(argv, folder_ + "/log");
  if (!started.ok()) return started.status();
  process_ = *std::move(started);
  for (Patience patience; patience.Lasts() && process_.running();) {
    if (CheckHealth(Connect(address()), std::chrono::seconds(1)).ok()) return absl::OkStatus();
    absl::SleepFor(absl::Milliseconds(5));
  }
  return absl::UnavailableError("kv_store did not get healthy:\n" + log());
}

void KvStoreProcess::Kill() {
  process_.Signal(SIGKILL);
  for (Patience patience; process_.running(); absl::SleepFor(absl::Milliseconds(1))) HGA_CHECK(patience.Lasts());
}

}  // namespace hga
