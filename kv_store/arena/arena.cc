#include "kv_store/arena/arena.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

struct flock ByteLock(short type, uint64_t offset) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(offset);
  lock.l_len = 1;
  return lock;
}

bool LockedByOtherFile(int fd, uint64_t offset) {
  struct flock lock = ByteLock(F_WRLCK, offset);
  if (::fcntl(fd, F_OFD_GETLK, &lock) != 0)
    return true;  // unknown counts as locked: the slots stay untouched
  return lock.l_type != F_UNLCK;
}

// An arena that is still served must not be replaced under its users.
absl::Status CheckNotServed(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return absl::OkStatus();
  const bool served = LockedByOtherFile(fd, 0);
  ::close(fd);
  if (!served) return absl::OkStatus();
  return absl::AlreadyExistsError(
      absl::StrCat("arena ", path, " is in use by another kv_store; choose another --arena_path"));
}

absl::Status BadHeader(const std::string& path, const char* field, uint64_t found, uint64_t expected) {
  return absl::FailedPreconditionError(
      absl::StrCat("arena ", path, ": ", field, " is ", found, ", expected ", expected, "; attach again"));
}

}  // namespace

absl::Status ValidateShape(const ArenaShape& shape) {
  if (shape.slot_bytes == 0 || shape.slot_bytes > kMaxSlotBytes || shape.slot_bytes % kSlotAlignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat("arena: slot_bytes ", shape.slot_bytes,
                                                   " is not a multiple of 64 up to ", kMaxSlotBytes));
  }
  if (shape.slot_count == 0 || shape.slot_count > kMaxSlots) {
    return absl::InvalidArgumentError(
        absl::StrCat("arena: slot_count ", shape.slot_count, " is not 1 to ", kMaxSlots));
  }
  return absl::OkStatus();
}

size_t ArenaFileBytes(const ArenaShape& shape) { return kSlotsOffset + shape.slot_count * shape.slot_bytes; }

absl::StatusOr<Arena> Arena::Create(const std::string& path, const ArenaShape& shape) {
  return Create(path, shape, [](size_t) { return true; });
}

absl::StatusOr<Arena> Arena::Create(const std::string& path, const ArenaShape& shape, AllocationProgress progress) {
  HGA_RETURN_IF_ERROR(ValidateShape(shape));
  HGA_RETURN_IF_ERROR(CheckNotServed(path));
  HGA_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Create(path, ArenaFileBytes(shape), progress));
  Arena arena(std::move(file), shape);
  HGA_RETURN_IF_ERROR(arena.LockByte(0));
  const ArenaHeader header{kArenaMagic, kArenaVersion, shape.slot_count, shape.generation, shape.slot_bytes};
  std::memcpy(arena.file_.data(), &header, sizeof(header));
  return arena;
}

absl::StatusOr<Arena> Arena::Open(const std::string& path, const ArenaShape& expected) {
  HGA_RETURN_IF_ERROR(ValidateShape(expected));
  HGA_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path, kSlotsOffset));
  ArenaHeader header;
  std::memcpy(&header, file.data(), sizeof(header));
  if (header.magic != kArenaMagic) return BadHeader(path, "magic", header.magic, kArenaMagic);
  if (header.version != kArenaVersion) return BadHeader(path, "version", header.version, kArenaVersion);
  if (header.generation != expected.generation) {
    return BadHeader(path, "generation", header.generation, expected.generation);
  }
  if (header.slot_bytes != expected.slot_bytes) {
    return BadHeader(path, "slot_bytes", header.slot_bytes, expected.slot_bytes);
  }
  if (header.slot_count != expected.slot_count) {
    return BadHeader(path, "slot_count", header.slot_count, expected.slot_count);
  }
  if (file.size() != ArenaFileBytes(expected)) {
    return BadHeader(path, "size of the file", file.size(), ArenaFileBytes(expected));
  }
  return Arena(std::move(file), expected);
}

absl::Status Arena::LockByte(uint64_t offset) const {
  struct flock lock = ByteLock(F_WRLCK, offset);
  if (::fcntl(file_.fd(), F_OFD_SETLK, &lock) == 0) return absl::OkStatus();
  if (errno == EAGAIN || errno == EACCES) {
    return absl::FailedPreconditionError(
        absl::StrCat("arena: byte ", offset, " is locked by another client"));
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("arena: cannot lock byte ", offset));
}

bool Arena::LockedByOther(uint64_t offset) const { return LockedByOtherFile(file_.fd(), offset); }

}  // namespace hga
