// Record of what was asked of the arena, to compare eviction policies on (tests/bench/replay_trace).
//
// File: TraceHeader, then events. An event is one byte for its kind, then the chunk's number and, for kinds that name a
// block, its layer, both as little-endian base-128 varints. Chunks are numbered in order of their first event.
#ifndef HGA_KV_STORE_STORE_TRACE_H_
#define HGA_KV_STORE_STORE_TRACE_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/kv/ids.h"

namespace hga {

inline constexpr uint64_t kTraceMagic = 0x31304543'41524748;  // "HGRACE01"

struct TraceHeader {
  uint64_t magic = kTraceMagic;
  uint64_t block_bytes = 0;
  uint32_t layers = 0;
  uint32_t slots = 0;
};

enum class TraceEvent : uint8_t {
  kCommit = 1,  // chunk: all of its blocks come into RAM, each held
  kErase,       // chunk: gone, in RAM and on disk
  kPin,         // chunk: evicted last from now on
  kUnpin,       // chunk
  kFetch,       // block: asked for, then held
  kRelease,     // block: one hold less
};
inline bool NamesBlock(TraceEvent event) { return event >= TraceEvent::kFetch; }

struct TraceEntry {
  TraceEvent event;
  uint32_t chunk;
  uint32_t layer;
};

// Owned by one thread. Stops for good, with a line in the log, when the file has `max_bytes` or cannot be written.
class TraceRecorder {
 public:
  static absl::StatusOr<std::unique_ptr<TraceRecorder>> Create(const std::string& path, uint64_t max_bytes);
  ~TraceRecorder();

  void Start(const TraceHeader& header);
  void Add(TraceEvent event, const ChunkHash& chunk, uint32_t layer = 0);

 private:
  TraceRecorder(FILE* file, uint64_t max_bytes) : file_(file), max_bytes_(max_bytes) {}
  void Write(const void* data, size_t bytes);

  FILE* file_;
  const uint64_t max_bytes_;
  uint64_t bytes_ = 0;
  bool started_ = false;
  absl::flat_hash_map<ChunkHash, uint32_t> numbers_;
};

struct Trace {
  TraceHeader header;
  std::vector<TraceEntry> entries;
};
// INVALID_ARGUMENT on a file that is no trace. One that ends within an event is read up to there.
absl::StatusOr<Trace> ReadTrace(const std::string& path);

}  // namespace hga

#endif  // HGA_KV_STORE_STORE_TRACE_H_
