// Summaries of chunks in device memory, by content: a page holds one chunk's summary data with its extents
// (common/kv/summary.h).
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_SUMMARY_PAGES_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_SUMMARY_PAGES_H_

#include <cstdint>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/kv/ids.h"
#include "gpu_worker/backend/cuda/device_memory.h"

namespace hga {

// Data is put by any thread and brought to the device by the step thread. A page that nobody has taken keeps its chunk
// until another one needs the room, the one that was released first.
class SummaryPages {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  // What `pages` of them take of the device, in bytes.
  static uint64_t Bytes(uint64_t chunk_bytes, uint32_t pages) { return DeviceBytes(chunk_bytes) * pages; }
  // chunk_bytes: of what a page holds. pages: at least 1.
  static absl::StatusOr<std::unique_ptr<SummaryPages>> Create(Device* device, DeviceMemory* memory,
                                                              uint64_t chunk_bytes, uint32_t pages);

  // --- Any thread ---
  // The chunk's page, to be released. kNone: it is not here.
  uint32_t Take(const ChunkHash& chunk);
  // The same, after putting it there if it is not. kNone: no room, or data of another size.
  uint32_t Put(const ChunkHash& chunk, const std::string& data);
  void Release(uint32_t page);
  bool HasRoom() const;

  // --- Step thread ---
  // Gives the kRoute stream what has been put, as much as fits the pinned buffer.
  absl::Status Upload();
  // How many of `pages`, taken ones, lie on the device from `first` on without a gap, once kRoute has come here.
  uint32_t ReadyUpto(absl::Span<const uint32_t> pages, uint32_t first) const;

  const uint8_t* data() const { return memory_.as<const uint8_t>(); }
  uint64_t page_bytes() const { return page_bytes_; }
  uint32_t count() const { return static_cast<uint32_t>(pages_.size()); }

 private:
  struct Page {
    ChunkHash chunk;
    bool used = false;   // has a chunk
    bool ready = false;  // its data is on the device, or on the way
    uint32_t takers = 0;
    std::string data;  // until it is ready
    std::list<uint32_t>::iterator idle;  // without takers
  };

  SummaryPages(Device* device, uint64_t chunk_bytes, uint32_t pages);
  uint32_t TakeLocked(const ChunkHash& chunk);

  Device* const device_;
  const uint64_t chunk_bytes_, page_bytes_;
  DeviceBuffer memory_;
  PinnedBuffer staging_;
  DeviceEvent staged_;

  mutable std::mutex mu_;
  // Guarded by mu_.
  std::vector<Page> pages_;
  absl::flat_hash_map<ChunkHash, uint32_t> by_chunk_;
  std::list<uint32_t> idle_;    // pages without takers, the one to be used next first
  std::deque<uint32_t> put_;    // pages with data; some may have got another chunk since
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_SUMMARY_PAGES_H_
