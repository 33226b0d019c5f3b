#include "kv_store/ring/fetch_message.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace hga {
namespace {

struct Head {
  uint64_t serial;
  uint32_t first;   // releases; blocks in an answer
  uint32_t second;  // blocks; 0 in an answer
};
static_assert(sizeof(Head) == 16);

struct Wanted {
  uint8_t chunk[16];
  uint32_t layer;
  uint32_t heads[2];  // low, high
};
static_assert(sizeof(Wanted) == 28);

struct Found {
  uint32_t code;
  uint32_t slot;
  uint32_t tier;
};
static_assert(sizeof(Found) == 12);
constexpr uint32_t kRam = 1, kDisk = 2;

constexpr size_t RequestBytes(size_t releases, size_t blocks) {
  return sizeof(Head) + releases * sizeof(uint32_t) + blocks * sizeof(Wanted);
}
constexpr size_t AnswerBytes(size_t blocks) { return sizeof(Head) + blocks * sizeof(Found); }
static_assert(AnswerBytes(1000) <= RequestBytes(0, 1000), "an answer fits where its request did");

template <typename T>
uint8_t* Put(const T& value, uint8_t* at) {
  std::memcpy(at, &value, sizeof(value));
  return at + sizeof(value);
}
template <typename T>
T Get(const uint8_t** at) {
  T value;
  std::memcpy(&value, *at, sizeof(value));
  *at += sizeof(value);
  return value;
}

absl::Status TooLarge(size_t bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("a message of ", bytes, " bytes does not fit into the ring"));
}
absl::Status Bad(const char* what) { return absl::InvalidArgumentError(absl::StrCat("ring message: ", what)); }

}  // namespace

bool FitsRing(size_t releases, size_t blocks) {
  return releases <= kFetchRingBytes && blocks <= kFetchRingBytes && RequestBytes(releases, blocks) <= kFetchRingBytes;
}

absl::StatusOr<size_t> EncodeRingFetch(const RingFetch& request, absl::Span<uint8_t> slot) {
  const size_t bytes = RequestBytes(request.releases.size(), request.blocks.size());
  if (bytes > slot.size()) return TooLarge(bytes);
  uint8_t* at = Put(Head{request.serial, static_cast<uint32_t>(request.releases.size()),
                         static_cast<uint32_t>(request.blocks.size())},
                    slot.data());
  for (const uint32_t release : request.releases) at = Put(release, at);
  for (const BlockHeads& block : request.blocks) {
    Wanted wanted;
    std::memcpy(wanted.chunk, block.name.chunk.bytes.data(), sizeof(wanted.chunk));
    wanted.layer = block.name.layer;
    wanted.heads[0] = static_cast<uint32_t>(block.heads);
    wanted.heads[1] = static_cast<uint32_t>(block.heads >> 32);
    at = Put(wanted, at);
  }
  return bytes;
}

absl::StatusOr<RingFetch> DecodeRingFetch(absl::Span<const uint8_t> message) {
  if (message.size() < sizeof(Head)) return Bad("too short");
  const uint8_t* at = message.data();
  const Head head = Get<Head>(&at);
  // The counts are 32 bits, so their sum in 64 bits cannot wrap.
  if (RequestBytes(head.first, head.second) != message.size()) return Bad("its counts do not match its size");
  RingFetch request;
  request.serial = head.serial;
  request.releases.resize(head.first);
  for (uint32_t& release : request.releases) release = Get<uint32_t>(&at);
  request.blocks.resize(head.second);
  for (BlockHeads& block : request.blocks) {
    const Wanted wanted = Get<Wanted>(&at);
    std::memcpy(block.name.chunk.bytes.data(), wanted.chunk, sizeof(wanted.chunk));
    block.name.layer = wanted.layer;
    block.heads = uint64_t{wanted.heads[1]} << 32 | wanted.heads[0];
  }
  return request;
}

absl::StatusOr<size_t> EncodeRingFetched(uint64_t serial, absl::Span<const RingFetched> blocks,
                                         absl::Span<uint8_t> slot) {
  const size_t bytes = AnswerBytes(blocks.size());
  if (bytes > slot.size()) return TooLarge(bytes);
  uint8_t* at = Put(Head{serial, static_cast<uint32_t>(blocks.size()), 0}, slot.data());
  for (const RingFetched& block : blocks) {
    at = Put(Found{static_cast<uint32_t>(block.code), block.slot, block.from_disk ? kDisk : kRam}, at);
  }
  return bytes;
}

absl::StatusOr<std::vector<RingFetched>> DecodeRingFetched(const RingFetch& request,
                                                           absl::Span<const uint8_t> message) {
  if (message.size() != AnswerBytes(request.blocks.size())) return Bad("not of the answer's size");
  const uint8_t* at = message.data();
  const Head head = Get<Head>(&at);
  if (head.serial != request.serial || head.first != request.blocks.size() || head.second != 0) {
    return Bad("not the answer to this request");
  }
  std::vector<RingFetched> blocks(head.first);
  for (RingFetched& block : blocks) {
    const Found found = Get<Found>(&at);
    if (found.code > static_cast<uint32_t>(absl::StatusCode::kUnauthenticated)) return Bad("unknown status code");
    if (found.tier != kRam && found.tier != kDisk) return Bad("unknown tier");
    block = {static_cast<absl::StatusCode>(found.code), found.slot, found.tier == kDisk};
  }
  return blocks;
}

}  // namespace hga
