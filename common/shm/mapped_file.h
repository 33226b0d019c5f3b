// A file mapped into memory and shared between processes (in /dev/shm, or wherever the path lies).
#ifndef HGA_COMMON_SHM_MAPPED_FILE_H_
#define HGA_COMMON_SHM_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/shm/huge_pages.h"

namespace hga {

// Movable; unmaps and closes when destroyed. Never removes the file.
class MappedFile {
 public:
  MappedFile() = default;
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept { *this = static_cast<MappedFile&&>(other); }
  MappedFile& operator=(MappedFile&& other) noexcept;

  // Makes a new file of `bytes` zeros, mode 0600, replacing a file of that name (which old mappings keep).
  // RESOURCE_EXHAUSTED when the file system has no room: the pages are allocated now, not at first touch, on huge pages
  // where there are some.
  static absl::StatusOr<MappedFile> Create(const std::string& path, size_t bytes);
  // The same of a file so large that it takes long. CANCELLED: `progress` said stop; no file is left.
  static absl::StatusOr<MappedFile> Create(const std::string& path, size_t bytes, AllocationProgress progress);
  // Maps an existing file whole, read and write. FAILED_PRECONDITION if it is smaller than `min_bytes`, is not a
  // regular file, or others than its owner may write it.
  static absl::StatusOr<MappedFile> Open(const std::string& path, size_t min_bytes);

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  // On huge pages for certain, of a file that was made here.
  size_t huge_bytes() const { return huge_bytes_; }
  int fd() const { return fd_; }

 private:
  absl::Status Allocate(const std::string& path, size_t bytes, AllocationProgress progress);

  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  size_t huge_bytes_ = 0;
  int fd_ = -1;
};

}  // namespace hga

#endif  // HGA_COMMON_SHM_MAPPED_FILE_H_
