#include "common/shm/ring.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "common/base/pause.h"
#include "common/base/status.h"

namespace hga {

struct RingHeader {
  uint64_t magic;
  uint32_t version;
  uint32_t slot_offset;
  uint64_t slot_bytes;
  alignas(64) std::atomic<uint32_t> state;
  std::atomic<uint32_t> client_waits;
  std::atomic<uint32_t> server_waits;
  std::atomic<uint32_t> code;
  std::atomic<uint64_t> bytes;
};
static_assert(sizeof(RingHeader) == 128);
static_assert(std::atomic<uint32_t>::is_always_lock_free && std::atomic<uint64_t>::is_always_lock_free);

namespace {

constexpr uint64_t kMagic = 0x676e697261676840;  // "@hgaring"
constexpr uint32_t kVersion = 1;
constexpr uint32_t kSlotOffset = 4096;
constexpr size_t kMaxErrorText = 1024;

enum State : uint32_t { kEmpty = 0, kPosted = 1, kAnswered = 2, kClosed = 3 };

absl::Status ClosedStatus() { return absl::UnavailableError("the ring is closed"); }

// Not the private kind: the two sides are different processes.
void FutexWait(std::atomic<uint32_t>* word, uint32_t expected, absl::Duration timeout) {
  const timespec limit = absl::ToTimespec(timeout);
  ::syscall(SYS_futex, word, FUTEX_WAIT, expected, &limit, nullptr, 0);
}
void FutexWake(std::atomic<uint32_t>* word) { ::syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

}  // namespace

Ring::Ring(MappedFile file, uint64_t slot_bytes, int spin_us)
    : file_(std::move(file)), slot_bytes_(slot_bytes), spin_us_(spin_us) {}

RingHeader* Ring::header() const { return reinterpret_cast<RingHeader*>(file_.data()); }
absl::Span<uint8_t> Ring::slot() const { return {file_.data() + kSlotOffset, slot_bytes_}; }
bool Ring::closed() const { return header()->state.load() >= kClosed; }

void Ring::Close() {
  header()->state.store(kClosed);
  FutexWake(&header()->state);
}

// A concurrent Close must win, or its sleeper would never be told: so no plain store.
void Ring::Publish(uint32_t state) {
  uint32_t now = header()->state.load();
  while (now < kClosed && !header()->state.compare_exchange_weak(now, state)) {
  }
  const auto& other_waits = state == kPosted ? header()->server_waits : header()->client_waits;
  if (other_waits.load() != 0) FutexWake(&header()->state);
}

uint32_t Ring::WaitWhile(uint32_t from, bool client, absl::Duration timeout) {
  auto& word = header()->state;
  uint32_t state = word.load();
  if (state != from) return state;
  const absl::Time start = absl::Now();
  const absl::Time spin_until = start + absl::Microseconds(spin_us_);
  while (spin_us_ > 0 && absl::Now() < spin_until) {
    for (int i = 0; i < 32; ++i) {
      state = word.load();
      if (state != from) return state;
      Pause();
    }
  }
  // The flag goes up before the state is looked at again; the other side changes the state before it looks at the flag.
  auto& waits = client ? header()->client_waits : header()->server_waits;
  waits.store(1);
  for (state = word.load(); state == from; state = word.load()) {
    const absl::Duration left = start + timeout - absl::Now();
    if (left <= absl::ZeroDuration()) break;
    FutexWait(&word, from, std::min(left, absl::Seconds(60)));
  }
  waits.store(0);
  return state;
}

absl::Status Ring::Broken(const char* what) {
  Close();
  return absl::UnavailableError(absl::StrCat("the ring is closed: ", what));
}

absl::StatusOr<size_t> Ring::MessageBytes() {
  const uint64_t bytes = header()->bytes.load();
  if (bytes > slot_bytes_) return Broken("the message claims to be larger than its slot");
  return bytes;
}

absl::StatusOr<ServerRing> ServerRing::Create(const std::string& path, uint64_t slot_bytes, int spin_us) {
  if (slot_bytes < kMinRingSlotBytes || slot_bytes > kMaxRingSlotBytes) {
    return absl::InvalidArgumentError(absl::StrCat("ring slot of ", slot_bytes, " bytes: must be ", kMinRingSlotBytes,
                                                   " to ", kMaxRingSlotBytes));
  }
  HGA_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Create(path, kSlotOffset + slot_bytes));
  ServerRing ring(std::move(file), slot_bytes, spin_us);
  ring.header()->magic = kMagic;
  ring.header()->version = kVersion;
  ring.header()->slot_offset = kSlotOffset;
  ring.header()->slot_bytes = slot_bytes;
  return ring;
}

absl::StatusOr<absl::Span<const uint8_t>> ServerRing::WaitPosted(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (true) {
    const uint32_t state = header()->state.load();
    if (state == kPosted) break;
    if (state == kClosed) return ClosedStatus();
    if (state > kClosed) return Broken("unknown state");
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return absl::DeadlineExceededError("nothing posted");
    WaitWhile(state, /*client=*/false, left);
  }
  HGA_ASSIGN_OR_RETURN(const size_t bytes, MessageBytes());
  return absl::Span<const uint8_t>(slot().data(), bytes);
}

absl::Status ServerRing::Answer(SlotWriter write) {
  if (closed()) return ClosedStatus();
  const absl::StatusOr<size_t> written = write(slot());
  if (written.ok()) {
    header()->bytes.store(*written);
  } else {
    const absl::string_view text = written.status().message().substr(0, kMaxErrorText);
    std::memcpy(slot().data(), text.data(), text.size());
    header()->bytes.store(text.size());
  }
  header()->code.store(static_cast<uint32_t>(written.status().code()));
  Publish(kAnswered);
  return absl::OkStatus();
}

absl::StatusOr<ClientRing> ClientRing::Open(const std::string& path, uint64_t slot_bytes, int spin_us) {
  if (slot_bytes < kMinRingSlotBytes || slot_bytes > kMaxRingSlotBytes) {
    return absl::FailedPreconditionError(absl::StrCat("ring slot of ", slot_bytes, " bytes is out of bounds"));
  }
  HGA_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path, kSlotOffset + slot_bytes));
  ClientRing ring(std::move(file), slot_bytes, spin_us);
  const RingHeader& header = *ring.header();
  if (header.magic != kMagic || header.version != kVersion || header.slot_offset != kSlotOffset ||
      header.slot_bytes != slot_bytes) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a ring of version ", kVersion, " with a slot of ",
                                                      slot_bytes, " bytes"));
  }
  return ring;
}

absl::Status ClientRing::Post(SlotWriter write) {
  const uint32_t state = header()->state.load();
  if (state == kClosed) return ClosedStatus();
  if (state > kClosed) return Broken("unknown state");
  if (state != kEmpty) return absl::FailedPreconditionError("an exchange is under way on the ring");
  HGA_ASSIGN_OR_RETURN(const size_t bytes, write(slot()));
  header()->bytes.store(bytes);
  Publish(kPosted);
  return absl::OkStatus();
}

absl::Status ClientRing::Wait(absl::Duration timeout,
                              absl::FunctionRef<absl::Status(absl::Span<const uint8_t>)> read) {
  const uint32_t state = WaitWhile(kPosted, /*client=*/true, timeout);
  if (state == kPosted) return Broken("no answer in time");
  if (state == kClosed) return ClosedStatus();
  if (state == kEmpty) return absl::FailedPreconditionError("nothing was posted on the ring");
  if (state != kAnswered) return Broken("unknown state");
  HGA_ASSIGN_OR_RETURN(const size_t bytes, MessageBytes());
  const absl::Span<const uint8_t> message(slot().data(), bytes);
  const uint32_t code = header()->code.load();
  absl::Status status;
  if (code == 0) {
    status = read(message);
  } else if (code <= static_cast<uint32_t>(absl::StatusCode::kUnauthenticated) && bytes <= kMaxErrorText) {
    status = absl::Status(static_cast<absl::StatusCode>(code),
                          absl::string_view(reinterpret_cast<const char*>(message.data()), message.size()));
  } else {
    return Broken("unknown status code");
  }
  Publish(kEmpty);
  return status;
}

}  // namespace hga
