#include "common/base/log.h"

#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/request_id.h"

namespace hga {
namespace {

constexpr const char* kLevelNames[] = {"debug", "info", "warning", "error"};
constexpr size_t kMaxValueBytes = 1024;

std::string* daemon_name = new std::string("hga");
LogLevel min_level = LogLevel::kInfo;

bool IsPlain(absl::string_view value) {
  if (value.empty()) return false;
  for (const char c : value) {
    if (c <= ' ' || c == '"' || c == '=' || c == '\\' || c == 0x7f) return false;
  }
  return true;
}

void Append(absl::string_view key, absl::string_view value, std::string* line) {
  const absl::string_view shown = value.substr(0, kMaxValueBytes);
  absl::StrAppend(line, line->empty() ? "" : " ", key, "=");
  if (IsPlain(shown)) {
    absl::StrAppend(line, shown);
  } else {
    absl::StrAppend(line, "\"", absl::Utf8SafeCEscape(shown), "\"");
  }
}

}  // namespace

void InitLog(const std::string& daemon) { *daemon_name = daemon; }

void SetLogLevel(const std::string& name) {
  for (int i = 0; i < 4; ++i) {
    if (name == kLevelNames[i]) min_level = static_cast<LogLevel>(i);
  }
}

bool LogEnabled(LogLevel level) { return level >= min_level; }

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields) {
  if (!LogEnabled(level)) return;
  std::string line;
  Append("time", absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone()), &line);
  Append("level", kLevelNames[static_cast<int>(level)], &line);
  Append("daemon", *daemon_name, &line);
  Append("msg", message, &line);
  for (const LogField& field : fields) Append(field.key, field.value, &line);
  if (!CurrentRequestId().empty()) Append("request_id", CurrentRequestId(), &line);
  line += '\n';
  // One write, so that lines of several threads do not mix.
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

}  // namespace hga
