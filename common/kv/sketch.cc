#include "common/kv/sketch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "common/kv/dealt_tokens.h"

namespace hga {
namespace {

// The rotation's signs: fixed for good, because sketches are kept on disk. splitmix64 of the channel.
constexpr bool Flipped(uint32_t channel) {
  uint64_t z = (uint64_t{channel} + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return ((z ^ (z >> 31)) & 1) != 0;
}

// By channel, of as many as heads have.
struct FlipSigns {
  float signs[256] = {};
};
constexpr FlipSigns MakeFlipSigns() {
  FlipSigns flips;
  for (uint32_t channel = 0; channel < 256; ++channel) flips.signs[channel] = Flipped(channel) ? -1.0f : 1.0f;
  return flips;
}
constexpr FlipSigns kFlips = MakeFlipSigns();

// size: a power of two.
void Hadamard(float* x, uint32_t size) {
  for (uint32_t half = 1; half < size; half *= 2) {
    for (uint32_t i = 0; i < size; i += 2 * half) {
      for (uint32_t j = i; j < i + half; ++j) {
        const float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
    }
  }
  const float norm = 1 / std::sqrt(static_cast<float>(size));
  for (uint32_t i = 0; i < size; ++i) x[i] *= norm;
}

float Finite(float x) { return std::isfinite(x) ? x : 0.0f; }

// Where the sign of a token's channel is: byte of the record's signs, and bit in it.
struct Place {
  size_t byte;
  uint32_t bit;
};
Place SignPlace(uint32_t token, uint32_t channel) {
  const uint32_t in_half = token % 32;
  return {size_t{channel / 4} * 32 + 2 * (in_half % 16) + in_half / 16, channel % 4 + (token >= 32 ? 4 : 0)};
}

// A token's place among those of a row, the ones in the low halves of its bytes before the ones in the high halves.
size_t PlaceInRow(uint32_t token) { return token / 32 * 32 + SignPlace(token, 0).byte; }

void WriteCentre(const std::vector<float>& mean, uint8_t* record, SketchScales* scales) {
  float top = 0;
  for (float x : mean) top = std::max(top, std::fabs(x));
  scales->centre = top / 127;
  const float inverse = top > 0 ? 127 / top : 0.0f;
  for (size_t d = 0; d < mean.size(); ++d) record[d] = static_cast<uint8_t>(std::lrint(mean[d] * inverse));
}

// Returns the scale of the token whose rotated difference is y: [head_dim]. signs: zero where the token's are.
float WriteSigns(const float* y, uint32_t head_dim, uint32_t token, uint8_t* signs) {
  double product = 0;
  for (uint32_t d = 0; d < head_dim; ++d) {
    product += std::fabs(double{y[d]});
    const Place place = SignPlace(token, d);
    if (y[d] >= 0) signs[place.byte] |= 1u << place.bit;
  }
  return Finite(static_cast<float>(product / head_dim));
}

// The same for all tokens, with bits that are dealt out to channels that are not rotated. a: [kSketchTokens]
void WriteDealt(const SketchDeal& deal, const bf16* const* keys, uint32_t count, const float* mean, uint8_t* signs,
                float* a) {
  const auto head_dim = static_cast<uint32_t>(deal.count.size());
  thread_local DealtTokens tokens;
  tokens.differences.assign(size_t{head_dim} * kSketchTokens, 0.0f);
  for (uint32_t t = 0; t < count; ++t) {
    float* const of_token = &tokens.differences[PlaceInRow(t)];
    for (uint32_t d = 0; d < head_dim; ++d) of_token[d * kSketchTokens] = Finite(ToFloat(keys[t][d])) - mean[d];
  }
  DealTokens(deal, &tokens);
  for (uint32_t t = 0; t < count; ++t) {
    const size_t p = PlaceInRow(t);
    a[t] = std::max(Finite(static_cast<float>(tokens.product[p] / tokens.square[p])), 0.0f);
  }
  for (uint32_t t = count; t < kSketchTokens; ++t) {  // there is no such token: no bit of it
    for (uint32_t d = 0; d < head_dim; ++d) tokens.levels[d * kSketchTokens + PlaceInRow(t)] = 0;
  }
  WriteDealtSigns(deal, tokens, signs);
}

// The token's a, as it is read.
float TokenScale(const uint8_t* centre_record, const uint8_t* token_record, uint32_t token, uint32_t head_dim) {
  SketchScales scales;
  std::memcpy(&scales, centre_record + head_dim, sizeof(scales));
  return token_record[token] * scales.token;
}

}  // namespace

bool SketchFlips(uint32_t channel) { return Flipped(channel); }

void RotateForSketch(float* x, uint32_t head_dim) {
  for (uint32_t d = 0; d < head_dim; ++d) x[d] *= kFlips.signs[d];
  // Blocks of powers of two make up any multiple of 8.
  for (uint32_t done = 0; done < head_dim;) {
    uint32_t size = 8;
    while (size * 2 <= head_dim - done) size *= 2;
    Hadamard(x + done, size);
    done += size;
  }
}

double WeighForSketch(const SketchDeal* deal, uint32_t head_dim, float* query) {
  double left = 0;  // squares of floats are exact in it
  if (deal == nullptr) {
    RotateForSketch(query, head_dim);
    for (uint32_t d = 0; d < head_dim; ++d) left += double{query[d]} * query[d];
    return double{kSketchSpread} * left;
  }
  float channels[256];
  std::copy_n(query, head_dim, channels);
  for (uint32_t c = 0; c < head_dim; ++c) left += double{channels[c]} * channels[c] * deal->left[c];
  for (uint32_t i = 0; i < head_dim; ++i) query[i] = channels[deal->bits[i].channel] * deal->bits[i].weight;
  return kSpreadShare * left;
}

void MakeSketch(const bf16* const* keys, uint32_t count, uint32_t head_dim, const SketchDeal* deal, uint8_t* centre,
                uint8_t* tokens) {
  std::vector<float> mean(head_dim);
  double sums[256] = {};
  for (uint32_t i = 0; i < count; ++i) {
    for (uint32_t d = 0; d < head_dim; ++d) sums[d] += Finite(ToFloat(keys[i][d]));
  }
  for (uint32_t d = 0; d < head_dim; ++d) mean[d] = static_cast<float>(sums[d] / std::max(count, 1u));
  SketchScales scales = {};
  WriteCentre(mean, centre, &scales);
  // Differences are to the centre as it will be read.
  std::memcpy(centre + head_dim, &scales, sizeof(scales));
  SketchCentre(centre, head_dim, mean.data());

  std::memset(tokens, 0, SketchTokenBytes(head_dim));
  float a[kSketchTokens] = {}, top = 0;
  if (deal == nullptr) {
    std::vector<float> difference(head_dim);
    for (uint32_t t = 0; t < count; ++t) {
      for (uint32_t d = 0; d < head_dim; ++d) difference[d] = Finite(ToFloat(keys[t][d])) - mean[d];
      RotateForSketch(difference.data(), head_dim);
      a[t] = WriteSigns(difference.data(), head_dim, t, tokens + kSketchTokens);
    }
  } else {
    WriteDealt(*deal, keys, count, mean.data(), tokens + kSketchTokens, a);
  }
  for (uint32_t t = 0; t < count; ++t) top = std::max(top, a[t]);
  scales.token = top / 255;
  for (uint32_t t = 0; t < count; ++t) tokens[t] = top > 0 ? static_cast<uint8_t>(std::lrint(a[t] / top * 255)) : 0;
  std::memcpy(centre + head_dim, &scales, sizeof(scales));
}

void SketchExtents(const SketchDeal& deal, const uint8_t* centre_record, const uint8_t* token_record,
                   int16_t* extents) {
  const auto head_dim = static_cast<uint32_t>(deal.count.size());
  SketchScales scales;
  std::memcpy(&scales, centre_record + head_dim, sizeof(scales));
  // By a token's place in a row of signs.
  float token_scales[kSketchTokens], values[kWideChannels][2][32] = {};
  for (uint32_t t = 0; t < kSketchTokens; ++t) {
    token_scales[PlaceInRow(t)] = TokenScale(centre_record, token_record, t, head_dim);
  }
  for (const SketchDeal::WideBit& wide : deal.wide_bits) {
    const uint8_t* row = token_record + kSketchTokens + SignPlace(0, wide.bit).byte;
    const float weight = deal.bits[wide.bit].weight;
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t bit = SignPlace(32 * half, wide.bit).bit;
      for (uint32_t p = 0; p < 32; ++p) values[wide.wide][half][p] += (row[p] >> bit & 1) != 0 ? weight : -weight;
    }
  }
  const auto steps = [&](float x) {
    const float in_steps = x / scales.centre;
    return in_steps < kMostExtent ? static_cast<int16_t>(std::lrint(in_steps)) : kMostExtent;
  };
  for (uint32_t i = 0; i < kWideChannels; ++i) {
    float up = 0, down = 0;
    for (uint32_t at = 0; at < kSketchTokens; ++at) {
      const float value = values[i][at / 32][at % 32] * token_scales[at];
      up = std::max(up, value);
      down = std::max(down, -value);
    }
    extents[i] = steps(up);
    extents[kWideChannels + i] = steps(down);
  }
}

void SketchCentre(const uint8_t* centre_record, uint32_t head_dim, float* centre) {
  SketchScales scales;
  std::memcpy(&scales, centre_record + head_dim, sizeof(scales));
  for (uint32_t d = 0; d < head_dim; ++d) centre[d] = static_cast<int8_t>(centre_record[d]) * scales.centre;
}

void SketchToken(const uint8_t* centre_record, const uint8_t* token_record, uint32_t token, uint32_t head_dim,
                 float* signs) {
  const float a = TokenScale(centre_record, token_record, token, head_dim);
  for (uint32_t d = 0; d < head_dim; ++d) {
    const Place place = SignPlace(token, d);
    signs[d] = (token_record[kSketchTokens + place.byte] >> place.bit & 1) != 0 ? a : -a;
  }
}

double SketchScore(const float* weights, double spread, const uint8_t* centre_record, const uint8_t* token_record,
                   uint32_t token, uint32_t head_dim) {
  std::vector<float> signs(head_dim);
  SketchToken(centre_record, token_record, token, head_dim, signs.data());
  const double a = TokenScale(centre_record, token_record, token, head_dim);
  double dot = 0;
  for (uint32_t d = 0; d < head_dim; ++d) dot += double{weights[d]} * signs[d];
  return dot + spread * a * a;
}

}  // namespace hga
