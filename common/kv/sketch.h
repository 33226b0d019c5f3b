// Token sketches: every key of a chunk as one bit per channel around the chunk's centre: of all channels alike,
// after a fixed random rotation, or dealt out to the channels as they are (common/kv/sketch_deal.h).
//
//   centre   c  = mean of the chunk's post-RoPE keys, int8 with one scale
//   token    k' = c + Rt(a * y'),  y' = +-1, the signs of R(k - c);
//            a: least squares, 8 bits of the chunk's largest a
//
// R is a randomised Hadamard transform, orthogonal, so that q.k' = q.c + a * (R q).y'. The rotation spreads what is
// peculiar to a few channels over all of them. The family: SimHash, RaBitQ (arXiv 2405.12497). Size: a byte and
// bits * head_dim / 8 for a token, and (head_dim + 8) / 64 for its share of the centre.
//
// Dealt out, y' is the sum over a channel's bits that sketch_deal.h names, and a the least squares again.
//
// A token's score estimates the log of what e^(q.k) is on average, given its record: q.k' and a part of the variance of
// what the record leaves out, a^2 |q|^2 times kSketchSpread. Without it keys seem lighter than they are, beside what is
// attended anyway above all.
#ifndef HGA_COMMON_KV_SKETCH_H_
#define HGA_COMMON_KV_SKETCH_H_

#include <cstddef>
#include <cstdint>

#include "common/kv/bf16.h"
#include "common/kv/sketch_deal.h"

namespace hga {

// Tokens of a record; a shorter chunk leaves the rest empty.
inline constexpr uint32_t kSketchTokens = 64;

// Centre record, coarse level: int8 centre [head_dim], then these.
struct SketchScales {
  float centre;  // of one step of the int8 centre
  float token;   // of one step of the token scales
};
inline size_t SketchCentreBytes(uint32_t head_dim) { return head_dim + sizeof(SketchScales); }

// Token record, fine level: scales u8 [64], then signs [head_dim / 4][32]. Byte 2k + o of row j
// holds channels 4j to 4j + 3 (bit b: channel 4j + b is not negative) of token 16 o + k in its low and of token
// 32 + 16 o + k in its high half: a table of 16 sums is looked up for 64 tokens at once.
inline size_t SketchSignBytes(uint32_t head_dim) { return size_t{head_dim} * 8; }
inline size_t SketchTokenBytes(uint32_t head_dim) { return kSketchTokens + SketchSignBytes(head_dim); }

// Half of the variance that the record leaves belongs to the mean of e^x; half of that again is what ranks best
// (decision 30). Of a normal distribution's rotated channels it leaves 0.571 a^2.
inline constexpr double kSpreadShare = 0.25;
inline constexpr float kSketchSpread = 0.143f;

// Whether R turns the sign of a channel before it mixes them.
bool SketchFlips(uint32_t channel);
// x = R x, in place. [head_dim], a multiple of 8, at most 256.
void RotateForSketch(float* x, uint32_t head_dim);

// A query as it is read against sketches: the score of a token is that of its centre, plus a times the sum of +-weights
// by its bits, plus a^2 times what is returned.
// deal: nullptr: bits of rotated channels. query: [head_dim], becomes the weights.
double WeighForSketch(const SketchDeal* deal, uint32_t head_dim, float* query);

// keys: [count][head_dim] pointers, count at most 64. Writes both records whole. Keys that
// are not finite give some finite record.
void MakeSketch(const bf16* const* keys, uint32_t count, uint32_t head_dim, const SketchDeal* deal, uint8_t* centre,
                uint8_t* tokens);

// How far a chunk's tokens lie from its centre by their records, in steps of the int8 centre: up in each of the deal's
// wide channels, then down. [kExtents] So q.centre + sum of q_i * up_i where q_i > 0, else of -q_i * down_i, is the
// best score that a token could have by those channels: chunks are looked for that have one token of a high score,
// which their centre tells little of (decision 36).
inline constexpr int16_t kMostExtent = 2047;  // with 16 bits of a query and any centre the sum stays below 2^31
void SketchExtents(const SketchDeal& deal, const uint8_t* centre_record, const uint8_t* token_record, int16_t* extents);

// Reads records back, for tests and for explanations. centre: [head_dim].
void SketchCentre(const uint8_t* centre_record, uint32_t head_dim, float* centre);
// a * y' of a token, bit by bit as WeighForSketch's weights are: [head_dim].
void SketchToken(const uint8_t* centre_record, const uint8_t* token_record, uint32_t token, uint32_t head_dim,
                 float* signs);
// What a token's score is above that of its centre, in double precision. weights [head_dim], spread: of WeighForSketch.
double SketchScore(const float* weights, double spread, const uint8_t* centre_record, const uint8_t* token_record,
                   uint32_t token, uint32_t head_dim);

}  // namespace hga

#endif  // HGA_COMMON_KV_SKETCH_H_
