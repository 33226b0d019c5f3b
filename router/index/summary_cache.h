// Summaries by content, so that a sequence that is opened again, or shares a prefix, costs no transfer.
#ifndef HGA_ROUTER_INDEX_SUMMARY_CACHE_H_
#define HGA_ROUTER_INDEX_SUMMARY_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "common/kv/ids.h"
#include "common/kv/summary.h"

namespace hga {

// Least recently used goes first. Thread-safe.
class SummaryCache {
 public:
  using Data = std::shared_ptr<const std::string>;

  explicit SummaryCache(uint64_t max_bytes) : max_bytes_(max_bytes) {}

  // nullptr: not here. Chunk hashes cover the model and its shape, but not the summary method.
  Data Get(const ChunkHash& chunk, const SummaryMethod* method);
  void Put(const ChunkHash& chunk, const SummaryMethod* method, const std::string& data);
  uint64_t bytes() const;

 private:
  struct Key {
    ChunkHash chunk;
    const SummaryMethod* method;
    bool operator==(const Key& o) const { return chunk == o.chunk && method == o.method; }
    template <typename H>
    friend H AbslHashValue(H h, const Key& k) { return H::combine(std::move(h), k.chunk, k.method); }
  };
  struct Entry {
    Key key;
    Data data;
  };

  const uint64_t max_bytes_;
  mutable std::mutex mu_;
  // Guarded by mu_.
  std::list<Entry> recent_;  // newest first
  absl::flat_hash_map<Key, std::list<Entry>::iterator> entries_;
  uint64_t bytes_ = 0;
};

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_SUMMARY_CACHE_H_
