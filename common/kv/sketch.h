// Token sketches: every key of a chunk as one bit per channel, after a fixed random rotation, around the chunk's centre.
//
//   centre   c  = mean of the chunk's post-RoPE keys, int8 with one scale
//   token    k' = c + Rt(a * sign(R(k - c))),  a = mean |R(k - c)|, 8 bits of the chunk's largest a
//
// R is a randomised Hadamard transform, orthogonal, so that q.k' = q.c + a * sum_d (+-)(R q)_d. The rotation spreads
// what is peculiar to a few channels over all of them; a is the least-squares scale. The family: SimHash, RaBitQ
// (arXiv 2405.12497). Size: head_dim / 8 + 1 bytes a token, and (head_dim + 8) / 64 for its share of the centre.
#ifndef HGA_COMMON_KV_SKETCH_H_
#define HGA_COMMON_KV_SKETCH_H_

#include <cstddef>
#include <cstdint>

#include "common/kv/bf16.h"

namespace hga {

// Tokens of a record; a shorter chunk leaves the rest empty.
inline constexpr uint32_t kSketchTokens = 64;

// Centre record, coarse level: int8 centre [head_dim], then these.
struct SketchScales {
  float centre;  // of one step of the int8 centre
  float token;   // of one step of the token scales
};
inline size_t SketchCentreBytes(uint32_t head_dim) { return head_dim + sizeof(SketchScales); }

// Token record, fine level: scales u8 [64], then signs [head_dim / 4][32]. Byte 2k + o of row j holds channels 4j to
// 4j + 3 (bit b: channel 4j + b is not negative) of token 16 o + k in its low and of token 32 + 16 o + k in its high
// half: a table of 16 sums is looked up for 64 tokens at once.
inline size_t SketchTokenBytes(uint32_t head_dim) { return kSketchTokens + size_t{head_dim} * 8; }

// Whether R turns the sign of a channel before it mixes them.
bool SketchFlips(uint32_t channel);
// x = R x, in place. [head_dim], a multiple of 8, at most 256.
void RotateForSketch(float* x, uint32_t head_dim);

// keys: [count][head_dim] pointers, count at most 64. Writes both records whole. Keys that are not finite give some
// finite record.
void MakeSketch(const bf16* const* keys, uint32_t count, uint32_t head_dim, uint8_t* centre, uint8_t* tokens);

// Reads records back, for tests and for explanations. centre: [head_dim].
void SketchCentre(const uint8_t* centre_record, uint32_t head_dim, float* centre);
// The token's difference to the centre after the rotation: [head_dim], each +a or -a.
void SketchToken(const uint8_t* centre_record, const uint8_t* token_record, uint32_t token, uint32_t head_dim,
                 float* difference);

}  // namespace hga

#endif  // HGA_COMMON_KV_SKETCH_H_
