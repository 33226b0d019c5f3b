#include "gpu_worker/model/byte_trie.h"

namespace hga {

void ByteTrie::Add(absl::string_view text, uint32_t id) {
  if (text.empty()) return;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    uint32_t& next = i == 0 ? first_[byte] : edges_[uint64_t{node} << 8 | byte];
    if (next == 0) {
      next = static_cast<uint32_t>(ids_.size());
      ids_.push_back(kNone);
    }
    node = next;
  }
  if (ids_[node] == kNone) ids_[node] = id;
}

}  // namespace hga
