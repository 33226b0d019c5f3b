// Selections of a real model over a text, as the worker would make them: which keys of which blocks each token attends.
#ifndef HGA_TESTS_BENCH_SELECTION_RECORDER_H_
#define HGA_TESTS_BENCH_SELECTION_RECORDER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/kv/geometry.h"

namespace hga {

// Keys of one chunk that one KV head of a layer attends in one token's step.
struct Selected {
  uint32_t token = 0, layer = 0, kv_head = 0, chunk = 0;
  uint64_t mask = 0;  // bit i: the chunk's token i
};

struct Recording {
  KvGeometry geometry;
  uint32_t chunks = 0;  // of the text
  uint32_t tokens = 0;  // recorded
  std::vector<Selected> selected;  // by token, then by layer
};

// Prefills `prompt` tokens of the text, then decodes the `tokens` that follow, each with a selection of its own, in a
// configuration of tests/quality (sketch/512/decode).
absl::StatusOr<Recording> RecordSelections(const std::string& model, const std::string& text, uint32_t prompt,
                                           uint32_t tokens, const std::string& configuration);

}  // namespace hga

#endif  // HGA_TESTS_BENCH_SELECTION_RECORDER_H_
