// One line per event on stderr, as key=value pairs (logfmt), values quoted where they must be:
//
//   time=2026-01-02T03:04:05.678Z level=warning daemon=kv_store msg="write-back failed" error="no space" retry=yes
//
// In a RequestScope the line ends with request_id=... Thread-safe; never logs prompts.
#ifndef HGA_COMMON_BASE_LOG_H_
#define HGA_COMMON_BASE_LOG_H_

#include <initializer_list>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace hga {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct LogField {
  // Implicit, so that a line reads LogInfo("event", {{"key", value}}).
  LogField(const char* field_key, const absl::AlphaNum& field_value)
      : key(field_key), value(field_value.data(), field_value.size()) {}

  const char* key;
  std::string value;  // at most 1 KiB of it are printed
};

// Name printed on every line. Call once, before the first thread.
void InitLog(const std::string& daemon);
// The lowest level that is printed, of debug, info, warning, error; another name changes nothing. Before the first
// thread, too.
void SetLogLevel(const std::string& name);

// Whether a line of this level would be printed; saves putting together one that is not.
bool LogEnabled(LogLevel level);

void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});
inline void LogDebug(absl::string_view message, std::initializer_list<LogField> fields) {
  Log(LogLevel::kDebug, message, fields);
}
inline void LogInfo(absl::string_view message, std::initializer_list<LogField> fields) {
  Log(LogLevel::kInfo, message, fields);
}
inline void LogWarning(absl::string_view message, std::initializer_list<LogField> fields) {
  Log(LogLevel::kWarning, message, fields);
}
inline void LogError(absl::string_view message, std::initializer_list<LogField> fields) {
  Log(LogLevel::kError, message, fields);
}

// The same for a message that is put together and has no fields.
template <typename... Args>
void LogInfo(const Args&... args) { Log(LogLevel::kInfo, absl::StrCat(args...)); }
template <typename... Args>
void LogWarning(const Args&... args) { Log(LogLevel::kWarning, absl::StrCat(args...)); }
template <typename... Args>
void LogError(const Args&... args) { Log(LogLevel::kError, absl::StrCat(args...)); }

}  // namespace hga

#endif  // HGA_COMMON_BASE_LOG_H_
