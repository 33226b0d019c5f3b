// One exchange slot in shared memory between a client (asks) and a server (answers): worker and router, or worker and
// kv_store.
//
// File, little endian:
//   0    u64 magic, u32 version, u32 slot offset, u64 slot bytes      written once by the server
//   64   u32 state, u32 client waits, u32 server waits, u32 code,     the state word is also the futex
//        u64 bytes of the message in the slot
//   4096 slot: the request, then in its place the answer (or the error's text, if code is not 0)
//
// State: EMPTY -> POSTED (client) -> ANSWERED (server) -> EMPTY (client); CLOSED from anywhere, for ever.
// Each side trusts only its own copy of the slot's size; a value that makes no sense closes the ring.
#ifndef HGA_COMMON_SHM_RING_H_
#define HGA_COMMON_SHM_RING_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/shm/mapped_file.h"

namespace hga {

struct RingHeader;

inline constexpr uint64_t kMinRingSlotBytes = 4096;
inline constexpr uint64_t kMaxRingSlotBytes = uint64_t{64} << 20;

// Writes a message into the slot and returns its size.
using SlotWriter = absl::FunctionRef<absl::StatusOr<size_t>(absl::Span<uint8_t>)>;

// What both sides share. Movable only before threads use it.
class Ring {
 public:
  // Wakes the other side and makes every later call UNAVAILABLE. Any thread.
  void Close();
  bool closed() const;
  uint64_t slot_bytes() const { return slot_bytes_; }
  // How long this side polls before it sleeps, from the next wait on. The waiting thread's.
  void set_spin_us(int spin_us) { spin_us_ = spin_us; }

 protected:
  Ring(MappedFile file, uint64_t slot_bytes, int spin_us);

  RingHeader* header() const;
  absl::Span<uint8_t> slot() const;
  void Publish(uint32_t state);
  // Spins at most spin_us, then sleeps, until the state is not `from` any more. Returns the state; `from`: timed out.
  uint32_t WaitWhile(uint32_t from, bool client, absl::Duration timeout);
  absl::StatusOr<size_t> MessageBytes();
  absl::Status Broken(const char* what);

 private:
  MappedFile file_;
  uint64_t slot_bytes_;
  int spin_us_;
};

// The client's end. One thread posts and waits.
class ClientRing : public Ring {
 public:
  // FAILED_PRECONDITION if the file is not a ring of this version with slots of `slot_bytes`.
  static absl::StatusOr<ClientRing> Open(const std::string& path, uint64_t slot_bytes, int spin_us);

  // UNAVAILABLE: closed. FAILED_PRECONDITION: an exchange is under way. A failed `write` leaves the slot empty.
  absl::Status Post(SlotWriter write);
  // Hands the answer to `read` and empties the slot. The server's own error is returned as it was sent; UNAVAILABLE:
  // closed, or no answer in time (the ring is then closed, since a late answer could be taken for another).
  absl::Status Wait(absl::Duration timeout, absl::FunctionRef<absl::Status(absl::Span<const uint8_t>)> read);

 private:
  using Ring::Ring;
};

// The server's end. One thread waits and answers.
class ServerRing : public Ring {
 public:
  // Makes the file. INVALID_ARGUMENT: slot_bytes out of bounds.
  static absl::StatusOr<ServerRing> Create(const std::string& path, uint64_t slot_bytes, int spin_us);

  // The posted request: valid until Answer, and the client may scribble over it meanwhile. DEADLINE_EXCEEDED: none
  // yet. UNAVAILABLE: closed.
  absl::StatusOr<absl::Span<const uint8_t>> WaitPosted(absl::Duration timeout);
  // Writes the answer over the request. An error of `write` is sent instead of an answer.
  absl::Status Answer(SlotWriter write);

 private:
  using Ring::Ring;
};

}  // namespace hga

#endif  // HGA_COMMON_SHM_RING_H_
