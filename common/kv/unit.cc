#include "common/kv/unit.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "common/kv/bf16.h"
#include "common/kv/sketch.h"

namespace hga {
namespace {

// Of a cluster that has no keys: never the largest.
constexpr float kNoKeys = -1e30f;
constexpr int kClusterRounds = 6;

enum class Rounding { kNearest, kUp };  // kUp: for values that are not negative

bf16 RoundBf16(double x, Rounding rounding) {
  bf16 value = ToBf16(static_cast<float>(x));
  if (rounding == Rounding::kUp && ToFloat(value) < x && value.bits < 0x7F7F) ++value.bits;  // the next one, if finite
  return value;
}

size_t ScaleOffset(const UnitLayout& layout, uint32_t r, uint32_t v) {
  return r * layout.representative_bytes + layout.value_bytes() + v * sizeof(float);
}

void WriteInt8(const UnitLayout& layout, uint32_t r, uint32_t v, const double* x, Rounding rounding, uint8_t* unit) {
  double top = 0;
  for (uint32_t d = 0; d < layout.head_dim; ++d) top = std::max(top, std::fabs(x[d]));
  auto scale = static_cast<float>(top / 127);
  if (scale * 127.0 < top) scale = std::nextafter(scale, std::numeric_limits<float>::infinity());
  uint8_t* values = unit + r * layout.representative_bytes + size_t{v} * layout.head_dim;
  for (uint32_t d = 0; d < layout.head_dim; ++d) {
    const double steps = scale > 0 ? x[d] / scale : 0.0;
    double code = rounding == Rounding::kUp ? std::ceil(steps) : std::nearbyint(steps);
    if (rounding == Rounding::kUp && code * scale < x[d]) ++code;
    values[d] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(code, -127.0, 127.0)));
  }
  std::memcpy(unit + ScaleOffset(layout, r, v), &scale, sizeof(scale));
}

void WriteVector(const UnitLayout& layout, uint32_t r, uint32_t v, const double* x, Rounding rounding, uint8_t* unit) {
  if (layout.int8) return WriteInt8(layout, r, v, x, rounding, unit);
  uint8_t* values = unit + r * layout.representative_bytes + size_t{v} * layout.head_dim * sizeof(bf16);
  for (uint32_t d = 0; d < layout.head_dim; ++d) {
    const bf16 value = RoundBf16(x[d], rounding);
    std::memcpy(values + d * sizeof(bf16), &value, sizeof(value));
  }
}

void WriteBias(const UnitLayout& layout, uint32_t r, float bias, uint8_t* unit) {
  std::memcpy(unit + ScaleOffset(layout, r, layout.int8 ? layout.vectors : 0), &bias, sizeof(bias));
}

std::vector<double> MeanOf(const float* keys, uint32_t count, uint32_t head_dim) {
  std::vector<double> mean(head_dim);
  for (uint32_t i = 0; i < count; ++i) {
    for (uint32_t d = 0; d < head_dim; ++d) mean[d] += keys[size_t{i} * head_dim + d];
  }
  for (double& x : mean) x /= count;
  return mean;
}

void MakeMean(const UnitLayout& layout, const float* keys, uint32_t count, uint8_t* out) {
  WriteVector(layout, 0, 0, MeanOf(keys, count, layout.head_dim).data(), Rounding::kNearest, out);
}

void MakeGauss(const UnitLayout& layout, const float* keys, uint32_t count, uint8_t* out) {
  const std::vector<double> mean = MeanOf(keys, count, layout.head_dim);
  std::vector<double> variance(layout.head_dim);
  for (uint32_t i = 0; i < count; ++i) {
    for (uint32_t d = 0; d < layout.head_dim; ++d) {
      const double apart = keys[size_t{i} * layout.head_dim + d] - mean[d];
      variance[d] += apart * apart / count;
    }
  }
  WriteVector(layout, 0, 0, mean.data(), Rounding::kNearest, out);
  WriteVector(layout, 0, 1, variance.data(), Rounding::kNearest, out);
}

struct Range {
  std::vector<double> low, high;
};
Range RangeOf(const float* keys, uint32_t count, uint32_t head_dim) {
  Range range = {std::vector<double>(keys, keys + head_dim), std::vector<double>(keys, keys + head_dim)};
  for (uint32_t i = 1; i < count; ++i) {
    for (uint32_t d = 0; d < head_dim; ++d) {
      const double key = keys[size_t{i} * head_dim + d];
      range.low[d] = std::min(range.low[d], key);
      range.high[d] = std::max(range.high[d], key);
    }
  }
  return range;
}

std::vector<double> CentreOf(const Range& range) {
  std::vector<double> centre(range.low.size());
  for (size_t d = 0; d < centre.size(); ++d) centre[d] = range.low[d] / 2 + range.high[d] / 2;
  return centre;
}

void MakeCuboid(const UnitLayout& layout, const float* keys, uint32_t count, uint8_t* out) {
  const std::vector<double> centre = CentreOf(RangeOf(keys, count, layout.head_dim));
  std::vector<double> spread(layout.head_dim);
  for (uint32_t i = 0; i < count; ++i) {
    for (uint32_t d = 0; d < layout.head_dim; ++d) {
      spread[d] += std::fabs(keys[size_t{i} * layout.head_dim + d] - centre[d]) / count;
    }
  }
  WriteVector(layout, 0, 0, centre.data(), Rounding::kNearest, out);
  WriteVector(layout, 0, 1, spread.data(), Rounding::kNearest, out);
}

// Half-widths are about the centre as it will be read, and rounded outward.
void WriteBox(const UnitLayout& layout, const Range& range, uint8_t* out) {
  WriteVector(layout, 0, 0, CentreOf(range).data(), Rounding::kNearest, out);
  std::vector<double> centre(layout.head_dim), half(layout.head_dim);
  ReadUnit(layout, out, 0, 0, centre.data());
  for (uint32_t d = 0; d < layout.head_dim; ++d) {
    const double widest = std::max({range.high[d] - centre[d], centre[d] - range.low[d], 0.0});
    half[d] = widest > 0 ? std::nextafter(widest, std::numeric_limits<double>::infinity()) : 0.0;
  }
  WriteVector(layout, 0, 1, half.data(), Rounding::kUp, out);
}

double SquaredDistance(const float* key, const double* centre, uint32_t head_dim) {
  double sum = 0;
  for (uint32_t d = 0; d < head_dim; ++d) sum += (key[d] - centre[d]) * (key[d] - centre[d]);
  return sum;
}

// centres: [clusters][head_dim]. The key farthest from the mean, then always the one farthest from all before.
void StartCentres(const float* keys, uint32_t count, uint32_t head_dim, uint32_t clusters, double* centres) {
  std::vector<double> last = MeanOf(keys, count, head_dim);
  std::vector<double> distance(count, std::numeric_limits<double>::infinity());
  for (uint32_t c = 0; c < clusters; ++c) {
    uint32_t farthest = 0;
    for (uint32_t i = 0; i < count; ++i) {
      const double to_last = SquaredDistance(keys + size_t{i} * head_dim, last.data(), head_dim);
      distance[i] = c < 2 ? to_last : std::min(distance[i], to_last);  // the mean is no centre
      if (distance[i] > distance[farthest]) farthest = i;
    }
    std::copy_n(keys + size_t{farthest} * head_dim, head_dim, last.begin());
    std::copy_n(last.begin(), head_dim, centres + size_t{c} * head_dim);
  }
}

// Lloyd's algorithm.
void MakeKmeans(const UnitLayout& layout, const float* keys, uint32_t count, uint8_t* out) {
  const uint32_t head_dim = layout.head_dim, clusters = std::min(layout.representatives, count);
  std::vector<uint32_t> cluster(count), size(clusters);
  std::vector<double> centres(size_t{clusters} * head_dim);
  StartCentres(keys, count, head_dim, clusters, centres.data());
  for (int round = 0; round < kClusterRounds; ++round) {
    std::fill(size.begin(), size.end(), 0);
    for (uint32_t i = 0; i < count; ++i) {
      double nearest = std::numeric_limits<double>::infinity();
      for (uint32_t c = 0; c < clusters; ++c) {
        const double distance = SquaredDistance(keys + size_t{i} * head_dim, &centres[size_t{c} * head_dim], head_dim);
        if (distance < nearest) {
          nearest = distance;
          cluster[i] = c;
        }
      }
      ++size[cluster[i]];
    }
    for (uint32_t c = 0; c < clusters; ++c) {
      if (size[c] > 0) std::fill_n(&centres[size_t{c} * head_dim], head_dim, 0.0);
    }
    for (uint32_t i = 0; i < count; ++i) {
      double* centre = &centres[size_t{cluster[i]} * head_dim];
      for (uint32_t d = 0; d < head_dim; ++d) centre[d] += double{keys[size_t{i} * head_dim + d]} / size[cluster[i]];
    }
  }
  const std::vector<double> none(head_dim);
  for (uint32_t r = 0; r < layout.representatives; ++r) {
    const bool used = r < clusters && size[r] > 0;
    WriteVector(layout, r, 0, used ? &centres[size_t{r} * head_dim] : none.data(), Rounding::kNearest, out);
    WriteBias(layout, r, used ? std::log(static_cast<float>(size[r]) / count) : kNoKeys, out);
  }
}

}  // namespace

bool EstimatesMass(SummaryForm form) { return form != SummaryForm::kCuboid && form != SummaryForm::kBox; }

SecondWeight SecondWeightOf(SummaryForm form) {
  switch (form) {
    case SummaryForm::kCuboid:
    case SummaryForm::kBox: return SecondWeight::kAbsolute;
    case SummaryForm::kGauss: return SecondWeight::kHalfSquare;
    default: return SecondWeight::kNone;
  }
}

UnitLayout LayoutOf(SummaryForm form, bool int8, uint32_t representatives, uint32_t head_dim) {
  UnitLayout layout;
  layout.head_dim = head_dim;
  layout.representatives = representatives;
  layout.vectors = SecondWeightOf(form) == SecondWeight::kNone ? 1 : 2;
  layout.int8 = int8 || form == SummaryForm::kSketch;
  layout.bias = form == SummaryForm::kKmeans;
  layout.representative_bytes =
      layout.value_bytes() + ((layout.int8 ? layout.vectors : 0) + (layout.bias ? 1 : 0)) * sizeof(float);
  if (form == SummaryForm::kSketch) layout.representative_bytes = SketchCentreBytes(head_dim);
  return layout;
}

void MakeUnit(SummaryForm form, const UnitLayout& layout, const float* keys, uint32_t count, uint8_t* out) {
  switch (form) {
    case SummaryForm::kMean: return MakeMean(layout, keys, count, out);
    case SummaryForm::kCuboid: return MakeCuboid(layout, keys, count, out);
    case SummaryForm::kBox: return WriteBox(layout, RangeOf(keys, count, layout.head_dim), out);
    case SummaryForm::kGauss: return MakeGauss(layout, keys, count, out);
    case SummaryForm::kKmeans: return MakeKmeans(layout, keys, count, out);
    case SummaryForm::kSketch: return;
  }
}

void MakeBoxAround(const UnitLayout& layout, const uint8_t* boxes, uint32_t count, uint8_t* out) {
  const uint32_t head_dim = layout.head_dim;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Range range = {std::vector<double>(head_dim, kInfinity), std::vector<double>(head_dim, -kInfinity)};
  std::vector<double> centre(head_dim), half(head_dim);
  for (uint32_t i = 0; i < count; ++i) {
    ReadUnit(layout, boxes + i * layout.bytes(), 0, 0, centre.data());
    ReadUnit(layout, boxes + i * layout.bytes(), 0, 1, half.data());
    for (uint32_t d = 0; d < head_dim; ++d) {
      range.low[d] = std::min(range.low[d], centre[d] - half[d]);
      range.high[d] = std::max(range.high[d], centre[d] + half[d]);
    }
  }
  WriteBox(layout, range, out);
}

void ReadUnit(const UnitLayout& layout, const uint8_t* unit, uint32_t r, uint32_t v, double* values) {
  const uint8_t* in = unit + r * layout.representative_bytes + size_t{v} * layout.head_dim * (layout.int8 ? 1 : 2);
  float scale = 1;
  if (layout.int8) std::memcpy(&scale, unit + ScaleOffset(layout, r, v), sizeof(scale));
  for (uint32_t d = 0; d < layout.head_dim; ++d) {
    if (layout.int8) {
      values[d] = double{scale} * static_cast<int8_t>(in[d]);
    } else {
      bf16 value;
      std::memcpy(&value, in + d * sizeof(value), sizeof(value));
      values[d] = ToFloat(value);
    }
  }
}

float ReadBias(const UnitLayout& layout, const uint8_t* unit, uint32_t r) {
  float bias = 0;
  if (layout.bias) std::memcpy(&bias, unit + ScaleOffset(layout, r, layout.int8 ? layout.vectors : 0), sizeof(bias));
  return bias;
}

double ScoreUnit(SummaryForm form, const UnitLayout& layout, const float* query, const uint8_t* unit) {
  const SecondWeight second = SecondWeightOf(form);
  std::vector<double> values(layout.head_dim);
  double best = -std::numeric_limits<double>::infinity();
  for (uint32_t r = 0; r < layout.representatives; ++r) {
    double score = ReadBias(layout, unit, r);
    for (uint32_t v = 0; v < layout.vectors; ++v) {
      ReadUnit(layout, unit, r, v, values.data());
      for (uint32_t d = 0; d < layout.head_dim; ++d) {
        const double q = query[d];
        score += values[d] * (v == 0 ? q : second == SecondWeight::kAbsolute ? std::fabs(q) : q * q / 2);
      }
    }
    best = std::max(best, score);
  }
  return best;
}

}  // namespace hga
