#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/statistics.h"

namespace hga {
namespace {

std::string Age(int64_t seconds) {
  if (seconds < 60) return "just now";
  if (seconds < 3600) return absl::StrCat(seconds / 60, " min ago");
  if (seconds < 48 * 3600) return absl::StrCat(seconds / 3600, " h ago");
  return absl::StrCat(seconds / 86400, " days ago");
}

}  // namespace

std::string SessionsTable(const gpu_worker::v1::ListSessionsResponse& sessions, int64_t now_unix_s) {
  if (sessions.sessions().empty()) return "no sessions; `hga ask` and `hga chat` make them\n";
  std::vector<gpu_worker::v1::SessionInfo> rows(sessions.sessions().begin(), sessions.sessions().end());
  std::stable_sort(rows.begin(), rows.end(),
                   [](const auto& a, const auto& b) { return a.last_used_unix_s() > b.last_used_unix_s(); });
  size_t width = 4;
  for (const auto& row : rows) width = std::max(width, row.name().size());
  std::string text =
      absl::StrFormat("%-*s %9s %10s %13s  %s\n", width, "NAME", "TOKENS", "K/V", "DURABLE", "LAST USED");
  for (const auto& row : rows) {
    absl::StrAppendFormat(&text, "%-*s %9d %10s %13s  %s%s%s\n", width, row.name(), row.tokens(),
                          HumanBytes(row.bytes()), absl::StrCat(row.chunks_durable(), "/", row.chunks()),
                          Age(now_unix_s - row.last_used_unix_s()), row.open() ? ", in use" : "",
                          row.pinned() ? ", pinned" : "");
  }
  return text;
}

}  // namespace hga
