// How far a command of the tool has got.
#ifndef HGA_KV_STORE_TOOL_PROGRESS_H_
#define HGA_KV_STORE_TOOL_PROGRESS_H_

#include <cstdint>
#include <functional>

namespace hga {

// (done, of how many in all; 0: not known yet). Called on the caller's thread.
using Progress = std::function<void(uint64_t done, uint64_t all)>;

}  // namespace hga

#endif  // HGA_KV_STORE_TOOL_PROGRESS_H_
