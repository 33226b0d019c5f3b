// What a client or kv_store finds in the slot of their ring, with anything in it: it decodes to the same bytes again,
// or is refused.
#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/base/check.h"
#include "kv_store/ring/fetch_message.h"

// Input: how many blocks the request had (1 byte), the message.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const absl::Span<const uint8_t> message(data + 1, size - 1);
  std::vector<uint8_t> slot(hga::kFetchRingBytes);
  if (const auto request = hga::DecodeRingFetch(message); request.ok()) {
    const auto bytes = hga::EncodeRingFetch(*request, absl::MakeSpan(slot));
    HGA_CHECK(bytes.ok() && absl::MakeConstSpan(slot.data(), *bytes) == message);
  }
  hga::RingFetch asked{0, {}, std::vector<hga::BlockHeads>(data[0])};
  for (size_t i = 0; i < 8 && i < message.size(); ++i) asked.serial |= uint64_t{message[i]} << (8 * i);
  if (const auto answer = hga::DecodeRingFetched(asked, message); answer.ok()) {
    const auto bytes = hga::EncodeRingFetched(asked.serial, *answer, absl::MakeSpan(slot));
    HGA_CHECK(bytes.ok() && absl::MakeConstSpan(slot.data(), *bytes) == message);
  }
  return 0;
}
