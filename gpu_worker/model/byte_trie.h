// Byte strings with an id each, for finding all those that start at a place in a text.
#ifndef HGA_GPU_WORKER_MODEL_BYTE_TRIE_H_
#define HGA_GPU_WORKER_MODEL_BYTE_TRIE_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace hga {

// Filled by Add, then constant and thread-safe.
class ByteTrie {
 public:
  // The first id of a text stays; an empty text is not taken.
  void Add(absl::string_view text, uint32_t id);
  bool empty() const { return ids_.size() == 1; }
  bool StartsAny(char byte) const { return first_[static_cast<uint8_t>(byte)] != 0; }

  // visit(length, id) for every entry that `text` starts with, shortest first.
  template <typename Visit>
  void Walk(absl::string_view text, const Visit& visit) const {
    uint32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      const auto byte = static_cast<uint8_t>(text[i]);
      if (i == 0) {
        node = first_[byte];
        if (node == 0) return;
      } else {
        const auto edge = edges_.find(uint64_t{node} << 8 | byte);
        if (edge == edges_.end()) return;
        node = edge->second;
      }
      if (ids_[node] != kNone) visit(i + 1, ids_[node]);
    }
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;

  std::vector<uint32_t> first_ = std::vector<uint32_t>(256);  // node of each first byte; 0: none
  absl::flat_hash_map<uint64_t, uint32_t> edges_;             // node << 8 | byte
  std::vector<uint32_t> ids_ = {kNone};                       // by node; node 0 is the root
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_BYTE_TRIE_H_
