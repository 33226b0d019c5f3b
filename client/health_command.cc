#include <chrono>

#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "common/base/status.h"
#include "common/rpc/health.h"

namespace hga {

absl::Status RunHealth(const Options& options, const std::string& address, Console* console) {
  const auto wait = std::chrono::milliseconds(static_cast<int64_t>(options.wait * 1000));
  HGA_RETURN_IF_ERROR(WaitHealthy(address, wait));
  if (!options.quiet) console->out << address << " serves\n" << std::flush;
  return absl::OkStatus();
}

}  // namespace hga
