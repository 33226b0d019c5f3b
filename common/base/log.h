// One line per event on stderr: `2026-01-02T03:04:05.678Z W kv_store: message`. Thread-safe; never logs prompts.
#ifndef HGA_COMMON_BASE_LOG_H_
#define HGA_COMMON_BASE_LOG_H_

#include <string>

#include "absl/strings/str_cat.h"

namespace hga {

enum class LogLevel { kInfo, kWarning, kError };

// Name printed on every line, and the lowest level that is printed. Call once, before the first thread.
void InitLog(const std::string& process_name, LogLevel min_level = LogLevel::kInfo);

void LogLine(LogLevel level, const std::string& message);

template <typename... Args>
void LogInfo(const Args&... args) { LogLine(LogLevel::kInfo, absl::StrCat(args...)); }
template <typename... Args>
void LogWarning(const Args&... args) { LogLine(LogLevel::kWarning, absl::StrCat(args...)); }
template <typename... Args>
void LogError(const Args&... args) { LogLine(LogLevel::kError, absl::StrCat(args...)); }

}  // namespace hga

#endif  // HGA_COMMON_BASE_LOG_H_
