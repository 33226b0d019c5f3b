#include "gpu_worker/engine/stop_text.h"

#include <algorithm>

namespace hga {
namespace {

enum class Character { kWhole, kUnfinished, kBroken };

// What begins at `at`; `length` is set to the bytes to take.
Character CharacterAt(const std::string& s, size_t at, size_t end, size_t* length) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const size_t wanted = static_cast<size_t>(Utf8Length(byte(at)));
  *length = 1;
  if (wanted == 0) return Character::kBroken;
  for (size_t i = 1; i < wanted; ++i) {
    if (at + i >= end) return Character::kUnfinished;
    unsigned char low = 0x80, high = 0xbf;
    if (i == 1 && byte(at) == 0xe0) low = 0xa0;
    if (i == 1 && byte(at) == 0xed) high = 0x9f;
    if (i == 1 && byte(at) == 0xf0) low = 0x90;
    if (i == 1 && byte(at) == 0xf4) high = 0x8f;
    if (byte(at + i) < low || byte(at + i) > high) return Character::kBroken;
  }
  *length = wanted;
  return Character::kWhole;
}

}  // namespace

int Utf8Length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 0;
}

bool IsUtf8(const std::string& text) {
  size_t length = 0;
  for (size_t i = 0; i < text.size(); i += length) {
    if (CharacterAt(text, i, text.size(), &length) != Character::kWhole) return false;
  }
  return true;
}

std::string StopText::Add(const std::string& bytes) {
  if (stopped_) return "";
  pending_ += bytes;
  size_t found = std::string::npos;
  for (const std::string& stop : stops_) found = std::min(found, pending_.find(stop));
  if (found != std::string::npos) {
    stopped_ = true;
    std::string text = TakeText(found, /*final=*/true);
    pending_.clear();
    return text;
  }
  return TakeText(pending_.size() - HeldForStop(), /*final=*/false);
}

std::string StopText::Flush() { return stopped_ ? "" : TakeText(pending_.size(), /*final=*/true); }

// Length of the longest end of `pending_` that a stop string begins with.
size_t StopText::HeldForStop() const {
  size_t held = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, pending_.size()); n > held; --n) {
      if (pending_.compare(pending_.size() - n, n, stop, 0, n) == 0) {
        held = n;
        break;
      }
    }
  }
  return held;
}

std::string StopText::TakeText(size_t bytes, bool final) {
  std::string text;
  size_t at = 0;
  while (at < bytes) {
    size_t length = 0;
    const Character c = CharacterAt(pending_, at, bytes, &length);
    if (c == Character::kUnfinished && !final) break;
    if (c == Character::kWhole) {
      text.append(pending_, at, length);
    } else {
      text += "\xef\xbf\xbd";
    }
    at += c == Character::kUnfinished ? bytes - at : length;
  }
  pending_.erase(0, at);
  return text;
}

}  // namespace hga
