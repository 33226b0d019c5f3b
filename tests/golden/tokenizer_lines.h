// The lines of tokenizer_lines.py, made from tokenizers/pools.json.
#ifndef HGA_TESTS_GOLDEN_TOKENIZER_LINES_H_
#define HGA_TESTS_GOLDEN_TOKENIZER_LINES_H_

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "common/base/utf8.h"
#include "nlohmann/json.hpp"

namespace hga {

// SplitMix64.
class LineRandom {
 public:
  explicit LineRandom(uint64_t seed) : state_(seed) {}
  uint64_t Below(uint64_t n) {
    state_ += 0x9e3779b97f4a7c15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (z ^ (z >> 31)) % n;
  }

 private:
  uint64_t state_;
};

// What is not UTF-8 becomes U+FFFD.
inline std::string ReplaceBroken(const std::string& bytes) {
  std::string text;
  for (size_t at = 0, length = 0; at < bytes.size(); at += length) {
    const Utf8Step step = NextUtf8(absl::string_view(bytes).substr(at), &length);
    text += step == Utf8Step::kCharacter ? bytes.substr(at, length) : "\ufffd";
  }
  return text;
}

inline std::vector<std::string> TokenizerLines(const std::string& pools_file) {
  std::ifstream stream(pools_file);
  const auto data = nlohmann::json::parse(stream);
  const auto pools = data["pools"].get<std::vector<std::vector<std::string>>>();
  LineRandom random(data["seed"].get<uint64_t>());
  std::vector<std::string> lines(data["count"].get<size_t>());
  for (std::string& line : lines) {
    if (random.Below(16) == 0) {
      std::string bytes(random.Below(64), '\0');
      for (char& byte : bytes) byte = static_cast<char>(random.Below(256));
      line = ReplaceBroken(bytes);
      continue;
    }
    std::vector<size_t> chosen(1 + random.Below(4));
    for (size_t& pool : chosen) pool = random.Below(pools.size());
    for (uint64_t left = 1 + random.Below(20); left > 0; --left) {
      const auto& pool = pools[chosen[random.Below(chosen.size())]];
      line += pool[random.Below(pool.size())];
    }
  }
  return lines;
}

}  // namespace hga

#endif  // HGA_TESTS_GOLDEN_TOKENIZER_LINES_H_
