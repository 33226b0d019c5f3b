// Small vocabularies for tests.
#ifndef HGA_GPU_WORKER_MODEL_TOKENIZER_TEST_DATA_H_
#define HGA_GPU_WORKER_MODEL_TOKENIZER_TEST_DATA_H_

#include <string>
#include <vector>

#include "gpu_worker/model/byte_alphabet.h"
#include "gpu_worker/model/tokenizer_data.h"

namespace hga {

// Byte-level BPE split as GPT-2 does: the control tokens first, then byte b as control.size() + b; no merges.
// The first control token ends an answer.
inline TokenizerData ByteVocabulary(const std::vector<std::string>& control) {
  TokenizerData data;
  data.split = FindTokenizerFamily("gpt-2")->split;
  for (const std::string& text : control) {
    AddedToken token;
    token.text = text;
    token.id = static_cast<uint32_t>(data.tokens.size());
    token.control = true;
    data.added.push_back(token);
    data.tokens.push_back(text);
  }
  for (int byte = 0; byte < 256; ++byte) data.tokens.push_back(ToByteAlphabet(static_cast<uint8_t>(byte)));
  data.ends = {0};
  return data;
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TOKENIZER_TEST_DATA_H_
