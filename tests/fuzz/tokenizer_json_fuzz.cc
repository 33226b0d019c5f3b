// tokenizer.json on any bytes: it is read or refused, and what is read turns any text into tokens and back.
#include <cstddef>
#include <cstdint>
#include <string>

#include "common/base/check.h"
#include "common/base/utf8.h"
#include "gpu_worker/model/tokenizer_json.h"

namespace {

void Use(const hga::Tokenizer& tokenizer, const std::string& text) {
  const auto ids = tokenizer.Encode(text, /*parse_special=*/true);
  if (!ids.ok()) return;
  hga::StreamDecoder decoder(&tokenizer);
  std::string decoded;
  for (uint32_t id : *ids) {
    HGA_CHECK(id < tokenizer.vocab_size());
    decoded += decoder.Add(id);
  }
  decoded += decoder.Finish();
  HGA_CHECK(hga::ValidUtf8Prefix(decoded) == decoded.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  auto parsed = hga::ParseTokenizerJson(text);
  if (!parsed.ok()) return 0;
  const auto tokenizer = hga::Tokenizer::Create(*std::move(parsed));
  if (!tokenizer.ok()) return 0;
  Use(**tokenizer, "");
  Use(**tokenizer, "It's 12 o'clock,\r\n  na\u00efve e\u0301\u0323 \u4e00\u200d\U0001f600 \u2581<s> ab<x> abab");
  Use(**tokenizer, text);
  return 0;
}
