#include "kv_store/ring/ring_file.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/cores.h"

namespace hga {
namespace {

constexpr char kSuffix[] = ".ring-";
constexpr int kPollUs = 100;

}  // namespace

std::string RingPath(const std::string& arena_path, uint64_t client) {
  return absl::StrCat(arena_path, kSuffix, client);
}

void RemoveRingsOf(const std::string& arena_path) {
  const std::filesystem::path arena(arena_path);
  const std::string prefix = arena.filename().string() + kSuffix;
  std::error_code error, ignored;
  for (std::filesystem::directory_iterator it(arena.parent_path(), error), end; !error && it != end;
       it.increment(error)) {
    if (!absl::StartsWith(it->path().filename().string(), prefix)) continue;
    std::filesystem::remove(it->path(), ignored);
  }
}

int RingPollUs() { return Cores() > 1 ? kPollUs : 0; }

}  // namespace hga
