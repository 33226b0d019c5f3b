#include "kv_store/tier/served_at.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace hga {
namespace {

constexpr char kUnix[] = "unix:";
constexpr size_t kMaxAddress = 4096;

std::string PathOf(const std::string& data_dir) { return data_dir + "/served_at"; }

std::string Absolute(const std::string& address) {
  if (!absl::StartsWith(address, kUnix)) return address;
  std::error_code error;
  const auto path = std::filesystem::absolute(address.substr(sizeof(kUnix) - 1), error);
  return error ? address : kUnix + path.string();
}

}  // namespace

absl::Status WriteServedAt(const std::string& data_dir, const std::string& address) {
  const std::string path = PathOf(data_dir), line = Absolute(address) + "\n";
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path));
  const bool written = ::write(fd, line.data(), line.size()) == static_cast<ssize_t>(line.size());
  const int error = errno;
  ::close(fd);
  if (written) return absl::OkStatus();
  ::unlink(path.c_str());
  return absl::ErrnoToStatus(error, absl::StrCat("cannot write ", path));
}

void RemoveServedAt(const std::string& data_dir) { ::unlink(PathOf(data_dir).c_str()); }

absl::StatusOr<std::string> ReadServedAt(const std::string& data_dir) {
  std::ifstream file(PathOf(data_dir));
  std::string address;
  if (std::getline(file, address) && !file.eof() && !address.empty() && address.size() <= kMaxAddress) return address;
  return absl::NotFoundError(absl::StrCat(PathOf(data_dir), " does not say where it is served"));
}

}  // namespace hga
