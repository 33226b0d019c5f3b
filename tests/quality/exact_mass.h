// Attention computed in full, for the oracles and for what is measured against it.
#ifndef HGA_TESTS_QUALITY_EXACT_MASS_H_
#define HGA_TESTS_QUALITY_EXACT_MASS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/quality/chooser.h"

namespace hga {

// Attention probabilities of a step's rows, of one KV head at a time. One thread; parallel inside.
class ExactMass {
 public:
  explicit ExactMass(const KvGeometry& g) : g_(g) {}

  // Scores all rows of the step against all keys up to the last row.
  void Load(const StepRows& rows, uint32_t kv_head, const BlockOfChunk& block_of);
  // Turns a row's scores into probabilities over the keys at positions [0, position of the row]; once per row, rows in
  // any thread. [queries_per_kv_head] pointers would lie `stride` floats apart.
  float* Softmax(uint32_t row);
  size_t stride() const { return keys_; }

 private:
  const KvGeometry g_;
  uint32_t first_position_ = 0;
  size_t keys_ = 0;
  std::vector<float> k_;       // [keys][head_dim]
  std::vector<float> q_;       // [rows][queries_per_kv_head][head_dim], softmax scale applied
  std::vector<float> scores_;  // [rows][queries_per_kv_head][keys]
};

// x = softmax(x). Returns log(sum(exp(x))) of what x was.
double SoftmaxInPlace(float* x, size_t count);
double LogSumExp(const float* x, size_t count);
// sum_i p[i] * (a[i] - b[i])
double WeightedDifference(const float* p, const float* a, const float* b, size_t count);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_EXACT_MASS_H_
