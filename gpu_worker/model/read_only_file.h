// A file mapped read-only.
#ifndef HGA_GPU_WORKER_MODEL_READ_ONLY_FILE_H_
#define HGA_GPU_WORKER_MODEL_READ_ONLY_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hga {

// Constant after Open; thread-safe. Views into it live as long as it does.
class ReadOnlyFile {
 public:
  // NOT_FOUND: no such file. INVALID_ARGUMENT: a folder, a FIFO, a device, or empty.
  static absl::StatusOr<std::unique_ptr<ReadOnlyFile>> Open(const std::string& path);
  ~ReadOnlyFile();
  ReadOnlyFile(const ReadOnlyFile&) = delete;
  ReadOnlyFile& operator=(const ReadOnlyFile&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  absl::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  ReadOnlyFile() = default;

  std::string path_;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Asks for the pages of a mapped range, without waiting and without the pages around them, which a page fault would
// read as well. Harmless for memory that is no mapped file.
void Prefetch(const uint8_t* data, size_t bytes);

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_READ_ONLY_FILE_H_
