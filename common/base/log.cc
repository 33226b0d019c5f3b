#include "common/base/log.h"

#include <unistd.h>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace hga {
namespace {

std::string* process_name = new std::string("hga");
LogLevel min_level = LogLevel::kInfo;

}  // namespace

void InitLog(const std::string& name, LogLevel level) {
  *process_name = name;
  min_level = level;
}

void LogLine(LogLevel level, const std::string& message) {
  if (level < min_level) return;
  static constexpr char kLetters[] = {'I', 'W', 'E'};
  const std::string line =
      absl::StrCat(absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()), " ",
                   std::string(1, kLetters[static_cast<int>(level)]), " ", *process_name, ": ", message, "\n");
  // One write, so that lines of several threads do not mix.
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

}  // namespace hga
