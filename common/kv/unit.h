// Units: what a summary keeps of some tokens that follow each other, in one layer and KV head.
//
//   score(q) = max over the unit's representatives of: sum over their vectors v of w_v(q) . u_v, plus their bias
//
//   form    vectors u                                   weights w(q)
//   mean    mean                                        q           HGA's, to within a small phase (arXiv 2606.30709)
//   cuboid  centre of the range, mean distance from it  q, |q|      ArkVale's cuboid-mean
//   box     centre of the range, half-width             q, |q|      a bound: no key scores higher (Quest, 2406.10774)
//   gauss   mean, variance                              q, q^2 / 2  log of the mean of e^(q.k) if keys were normal
//   kmeans  mean of a cluster                           q           bias: log of the cluster's share of the keys
//
// Record: per representative its values [vectors][head_dim], bf16 or int8, then a float scale per vector (int8), then a
// float bias (kmeans). A sketch's centre (common/kv/sketch.h) is a mean in int8 with a float more behind it.
#ifndef HGA_COMMON_KV_UNIT_H_
#define HGA_COMMON_KV_UNIT_H_

#include <cstddef>
#include <cstdint>

namespace hga {

enum class SummaryForm { kMean, kCuboid, kBox, kGauss, kKmeans, kSketch };

// How a representative's second vector is weighed.
enum class SecondWeight { kNone, kAbsolute, kHalfSquare };
SecondWeight SecondWeightOf(SummaryForm form);
// Whether a score is about the log of the mean of e^(q.k); those of a cuboid or a box lie far above it.
bool EstimatesMass(SummaryForm form);

// Where things are in a unit's record.
struct UnitLayout {
  uint32_t head_dim = 0;
  uint32_t representatives = 1;
  uint32_t vectors = 1;
  bool int8 = false;
  bool bias = false;
  size_t representative_bytes = 0;

  size_t value_bytes() const { return size_t{vectors} * head_dim * (int8 ? 1 : 2); }
  size_t bytes() const { return representatives * representative_bytes; }
};
// A sketch's is that of its centre.
UnitLayout LayoutOf(SummaryForm form, bool int8, uint32_t representatives, uint32_t head_dim);

// keys: [count][head_dim], finite; count at least 1. Not for sketches. out: [layout.bytes()], at any address.
void MakeUnit(SummaryForm form, const UnitLayout& layout, const float* keys, uint32_t count, uint8_t* out);
// The box around other boxes, whose records follow each other: it scores no lower than any of them.
void MakeBoxAround(const UnitLayout& layout, const uint8_t* boxes, uint32_t count, uint8_t* out);

// Reads a record back: vector v of representative r, [head_dim], and its bias (0 without one).
void ReadUnit(const UnitLayout& layout, const uint8_t* unit, uint32_t r, uint32_t v, double* values);
float ReadBias(const UnitLayout& layout, const uint8_t* unit, uint32_t r);
// The score in plain loops and double precision, for tests and explanations. query: [head_dim], softmax scale applied.
double ScoreUnit(SummaryForm form, const UnitLayout& layout, const float* query, const uint8_t* unit);

}  // namespace hga

#endif  // HGA_COMMON_KV_UNIT_H_
