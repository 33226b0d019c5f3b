// An arena file with any header: a client maps it only if it is what the store said, and no slot number reaches past
// it.
#include <fcntl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "common/base/check.h"
#include "kv_store/arena/arena.h"

namespace {

constexpr uint64_t kMaxFile = 1 << 20;

// Reads a byte at each end of a slot.
void Touch(const hga::Arena& arena, uint32_t slot) {
  volatile const uint8_t* bytes = arena.Slot(slot);
  if (bytes == nullptr) return;
  (void)bytes[0];
  (void)bytes[arena.shape().slot_bytes - 1];
}

}  // namespace

// Input: which shape the store is to have said (1 byte), how long the file is (2 bytes, in pages), the header.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  hga::ArenaHeader header = {};
  std::memcpy(&header, data + 3, size - 3 < sizeof(header) ? size - 3 : sizeof(header));
  hga::ArenaShape said{header.generation, header.slot_bytes, header.slot_count};
  if (data[0] == 1) said = {1, 4096, 4};
  const uint64_t pages = data[1] | data[2] << 8;
  const uint64_t bytes = pages == 0 && hga::ValidateShape(said).ok() ? hga::ArenaFileBytes(said) : pages * 4096;
  if (bytes > kMaxFile) return 0;
  const std::string path = "/dev/shm/hga-fuzz-" + std::to_string(::getpid());
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
  HGA_CHECK(fd >= 0 && ::ftruncate(fd, static_cast<off_t>(bytes)) == 0);
  HGA_CHECK(::pwrite(fd, &header, bytes < sizeof(header) ? bytes : sizeof(header), 0) >= 0);
  ::close(fd);
  const auto arena = hga::Arena::Open(path, said);
  ::unlink(path.c_str());
  if (!arena.ok()) return 0;
  for (uint32_t slot : {0u, said.slot_count - 1, said.slot_count, ~0u}) Touch(*arena, slot);
  HGA_CHECK(arena->Slot(said.slot_count) == nullptr);
  return 0;
}
