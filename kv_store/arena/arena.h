// The arena: one file in shared memory that holds K/V blocks in slots of one size. kv_store makes it, clients
// map it.
//
// File layout (little endian):
//
//   0      header page: ArenaHeader, rest zero
//   4096   lock bytes: one per client, locked by that client with F_OFD_SETLK for as long as it has the arena
//   mapped;
//          the store itself holds a lock on byte 0 of the file. The bytes' contents mean nothing.
//   8192   slots: slot_count of slot_bytes each; slot_bytes is a multiple of 4096
#ifndef HGA_KV_STORE_ARENA_ARENA_H_
#define HGA_KV_STORE_ARENA_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/shm/mapped_file.h"

namespace hga {

inline constexpr uint64_t kArenaMagic = 0x414e455241414748;  // "HGAARENA"
inline constexpr uint32_t kArenaVersion = 1;
inline constexpr size_t kArenaPage = 4096;
inline constexpr size_t kLockBytesOffset = kArenaPage;
inline constexpr uint32_t kMaxArenaClients = kArenaPage;
inline constexpr size_t kSlotsOffset = kLockBytesOffset + kMaxArenaClients;
inline constexpr size_t kSlotAlignment = 64;  // a cache line
inline constexpr uint64_t kMaxSlotBytes = uint64_t{1} << 30;
inline constexpr uint32_t kMaxSlots = 1u << 30;

struct ArenaShape {
  uint64_t generation = 0;  // a restarted store has another
  uint64_t slot_bytes = 0;
  uint32_t slot_count = 0;
};

struct ArenaHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t slot_count;
  uint64_t generation;
  uint64_t slot_bytes;
};
static_assert(sizeof(ArenaHeader) == 32);

// INVALID_ARGUMENT on a shape that is absurd or overflows.
absl::Status ValidateShape(const ArenaShape& shape);
// Size of the file; `shape` must be valid.
size_t ArenaFileBytes(const ArenaShape& shape);

// A mapping of the arena. Movable; the mapping and its locks end with it.
class Arena {
 public:
  Arena() = default;

  // Server side: makes the file (0600). ALREADY_EXISTS while another process serves an arena of that name.
  // Large ones take long: CANCELLED if `progress` stops it.
  static absl::StatusOr<Arena> Create(const std::string& path, const ArenaShape& shape);
  static absl::StatusOr<Arena> Create(const std::string& path, const ArenaShape& shape, AllocationProgress progress);
  // Client side: maps the file and checks every field of its header against `expected` and the file's size.
  static absl::StatusOr<Arena> Open(const std::string& path, const ArenaShape& expected);

  // The only way from a slot number to memory: nullptr unless slot < slot_count.
  uint8_t* Slot(uint32_t slot) const {
    if (slot >= shape_.slot_count) return nullptr;
    return file_.data() + kSlotsOffset + slot * shape_.slot_bytes;
  }

  // Locks a byte of the file for this mapping. The lock belongs to the mapping's own open file: the kernel
  // drops it once no process maps the arena through it. FAILED_PRECONDITION if another mapping has it.
  absl::Status LockByte(uint64_t offset) const;
  // Whether another mapping has the byte locked.
  bool LockedByOther(uint64_t offset) const;

  const ArenaShape& shape() const { return shape_; }
  // Of an arena that was made here, on huge pages for certain.
  size_t huge_bytes() const { return file_.huge_bytes(); }

 private:
  Arena(MappedFile file, const ArenaShape& shape) : file_(std::move(file)), shape_(shape) {}

  MappedFile file_;
  ArenaShape shape_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_ARENA_ARENA_H_
