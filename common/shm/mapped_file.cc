#include "common/shm/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

// Of small pages, some 0.1 s.
constexpr size_t kAtOnce = size_t{64} << 20;

absl::Status ErrnoStatus(int error, const std::string& what) {
  return absl::ErrnoToStatus(error, what);
}

absl::Status NoRoom(int error, const std::string& path, size_t bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("cannot allocate ", bytes, " bytes for ", path, ": ", std::strerror(error)));
}

// The whole file; MAP_FAILED with errno. Large ones begin at a huge page, without which none of their pages can be one.
void* MapShared(int fd, size_t bytes) {
  if (bytes < kHugePage) return ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  const size_t room = bytes + kHugePage;
  void* reserved = ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return MAP_FAILED;
  auto* const first = static_cast<uint8_t*>(reserved);
  const size_t skip = (kHugePage - reinterpret_cast<uintptr_t>(first) % kHugePage) % kHugePage;
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE)), end = skip + (bytes + page - 1) / page * page;
  void* data = ::mmap(first + skip, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  if (data == MAP_FAILED) {
    const int error = errno;
    ::munmap(reserved, room);
    errno = error;
    return MAP_FAILED;
  }
  if (skip > 0) ::munmap(first, skip);
  if (end < room) ::munmap(first + end, room - end);
  return data;
}

}  // namespace

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
  if (fd_ >= 0) ::close(fd_);
}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(huge_bytes_, other.huge_bytes_);
  std::swap(fd_, other.fd_);
  return *this;
}

absl::StatusOr<MappedFile> MappedFile::Create(const std::string& path, size_t bytes) {
  return Create(path, bytes, [](size_t) { return true; });
}

absl::StatusOr<MappedFile> MappedFile::Create(const std::string& path, size_t bytes, AllocationProgress progress) {
  // A new inode under the old name: whoever has the old file mapped keeps it.
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return ErrnoStatus(errno, absl::StrCat("cannot replace ", path));
  MappedFile file;
  file.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (file.fd_ < 0) return ErrnoStatus(errno, absl::StrCat("cannot create ", path));
  const absl::Status status = file.Allocate(path, bytes, progress);
  if (!status.ok()) {
    ::unlink(path.c_str());
    return status;
  }
  return file;
}

absl::Status MappedFile::Allocate(const std::string& path, size_t bytes, AllocationProgress progress) {
  if (::ftruncate(fd_, static_cast<off_t>(bytes)) != 0) return NoRoom(errno, path, bytes);
  void* data = MapShared(fd_, bytes);
  if (data == MAP_FAILED) return ErrnoStatus(errno, absl::StrCat("cannot map ", path));
  data_ = static_cast<uint8_t*>(data);
  size_ = bytes;
  bool stopped = false;
  const auto told = [&](size_t done) {
    stopped = stopped || !progress(done);
    return !stopped;
  };
  huge_bytes_ = AllocateHugePages(fd_, data_, bytes, told);
  for (size_t at = 0; at < bytes && !stopped; at += kAtOnce) {
    const size_t some = std::min(kAtOnce, bytes - at);
    const int error = ::posix_fallocate(fd_, static_cast<off_t>(at), static_cast<off_t>(some));
    if (error != 0) return NoRoom(error, path, bytes);
    told(std::max(huge_bytes_, at + some));
  }
  return stopped ? absl::CancelledError(absl::StrCat("stopped while ", path, " was made")) : absl::OkStatus();
}

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path, size_t min_bytes) {
  MappedFile file;
  file.fd_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (file.fd_ < 0) return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  struct stat info;
  if (::fstat(file.fd_, &info) != 0) return ErrnoStatus(errno, absl::StrCat("cannot stat ", path));
  if (!S_ISREG(info.st_mode) || (info.st_mode & 0022) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a file that only its owner may write"));
  }
  if (static_cast<size_t>(info.st_size) < min_bytes || info.st_size == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " has ", info.st_size, " bytes, expected at least ", min_bytes));
  }
  void* data = MapShared(file.fd_, info.st_size);
  if (data == MAP_FAILED) return ErrnoStatus(errno, absl::StrCat("cannot map ", path));
  file.data_ = static_cast<uint8_t*>(data);
  file.size_ = info.st_size;
  return file;
}

}  // namespace hga
