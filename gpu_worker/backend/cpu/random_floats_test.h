// Made-up numbers for the kernels' tests.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_RANDOM_FLOATS_TEST_H_
#define HGA_GPU_WORKER_BACKEND_CPU_RANDOM_FLOATS_TEST_H_

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace hga {

// Of a standard normal distribution.
inline std::vector<float> Random(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& x : out) x = normal(random);
  return out;
}

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_RANDOM_FLOATS_TEST_H_
