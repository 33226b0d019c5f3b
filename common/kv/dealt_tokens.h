// The codes of a chunk's tokens by a deal (sketch_deal.h), all tokens side by side.
#ifndef HGA_COMMON_KV_DEALT_TOKENS_H_
#define HGA_COMMON_KV_DEALT_TOKENS_H_

#include <cstdint>
#include <vector>

#include "common/kv/sketch.h"

namespace hga {

// Work space, kept from chunk to chunk.
struct DealtTokens {
  // [head_dim][kSketchTokens] of keys to their centre, as read; tokens in the order of a row's bits
  std::vector<float> differences;
  std::vector<uint8_t> levels;  // likewise
  double scale[kSketchTokens];  // of a token's levels
  // Sums over channels of difference * level as read, and of its square.
  double product[kSketchTokens], square[kSketchTokens];
};

// Fills all but the differences. Each token's sums are made channel by channel, in doubles: the same on every machine.
void DealTokens(const SketchDeal& deal, DealtTokens* tokens);
// Writes a record's signs, [head_dim / 4][32], from the levels.
void WriteDealtSigns(const SketchDeal& deal, const DealtTokens& tokens, uint8_t* signs);

}  // namespace hga

#endif  // HGA_COMMON_KV_DEALT_TOKENS_H_
