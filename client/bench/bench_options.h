// What `hga bench` is asked to measure.
#ifndef HGA_CLIENT_BENCH_BENCH_OPTIONS_H_
#define HGA_CLIENT_BENCH_BENCH_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace hga {

struct BenchOptions {
  std::vector<uint32_t> depths = {512, 4096, 16384};  // tokens of a prompt
  std::vector<std::string> modes = {"routed", "dense"};
  uint32_t decode_tokens = 64;  // steps timed after each prompt
  uint32_t repetitions = 1;     // medians of so many
  bool prefill_only = false;
  bool resume = false;     // each depth again, from the store
  bool no_limits = false;  // this is not the worker's machine

  // INVALID_ARGUMENT names the flag.
  absl::Status Validate() const;
  uint32_t steps() const { return prefill_only ? 0 : decode_tokens; }
};

// INVALID_ARGUMENT: a depth and its answer do not fit a context of that length.
absl::Status CheckDepths(const BenchOptions& options, uint32_t context_tokens);

// `count` token ids below `vocab_size`, the same for the same seed. Uniform: nothing but random text has no prefix in
// common with what a store may hold.
std::vector<uint32_t> RandomTokens(uint64_t seed, uint32_t count, uint32_t vocab_size);

}  // namespace hga

#endif  // HGA_CLIENT_BENCH_BENCH_OPTIONS_H_
