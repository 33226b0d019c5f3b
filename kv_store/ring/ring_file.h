// Where the rings between kv_store and its clients lie: beside the arena, which clients can map or have no ring.
#ifndef HGA_KV_STORE_RING_RING_FILE_H_
#define HGA_KV_STORE_RING_RING_FILE_H_

#include <cstdint>
#include <string>

namespace hga {

std::string RingPath(const std::string& arena_path, uint64_t client);
// Removes all rings of the arena. Only for the process that has just made the arena: no other serves it, so what lies
// there was left by one that was killed.
void RemoveRingsOf(const std::string& arena_path);

// How long either side polls before it sleeps, in us: somewhat more than it takes to wake another process. 0 on one
// core.
int RingPollUs();

}  // namespace hga

#endif  // HGA_KV_STORE_RING_RING_FILE_H_
