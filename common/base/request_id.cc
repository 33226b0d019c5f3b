#include "common/base/request_id.h"

#include <cstdint>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace hga {
namespace {

constexpr size_t kMaxBytes = 128;
thread_local std::string current;

}  // namespace

std::string NewRequestId() {
  static thread_local std::mt19937_64 random{(uint64_t{std::random_device()()} << 32) ^ std::random_device()()};
  return absl::StrCat(absl::Hex(random(), absl::kZeroPad16));
}

bool IsRequestId(absl::string_view id) {
  if (id.empty() || id.size() > kMaxBytes) return false;
  for (const char c : id) {
    const bool sign = c == '.' || c == '_' || c == '-' || c == ',';
    if (!sign && !absl::ascii_isalnum(static_cast<unsigned char>(c))) return false;
  }
  return true;
}

std::string JoinRequestIds(std::string ids, absl::string_view more) {
  if (ids.empty()) return std::string(more);
  if (!more.empty() && ids.size() + 1 + more.size() <= kMaxBytes) absl::StrAppend(&ids, ",", more);
  return ids;
}

const std::string& CurrentRequestId() { return current; }

RequestScope::RequestScope(std::string id) : outer_(std::exchange(current, std::move(id))) {}
RequestScope::~RequestScope() { current = std::move(outer_); }

}  // namespace hga
