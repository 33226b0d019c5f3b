// Means over documents and how sure they are.
#ifndef HGA_TESTS_QUALITY_STATISTICS_H_
#define HGA_TESTS_QUALITY_STATISTICS_H_

#include <cstdint>
#include <functional>
#include <vector>

namespace hga {

struct Interval {
  double low = 0, high = 0;
};

// 95 % bootstrap interval of `statistic` over samples of `count` things drawn with replacement (percentiles of 10,000
// draws). The same seed gives the same interval.
Interval Bootstrap(size_t count, const std::function<double(const std::vector<uint32_t>& drawn)>& statistic,
                   uint32_t seed = 1);

// Sum of a over sum of b, and its interval; for pairs that belong together. One pair has no interval: NaN.
struct Ratio {
  double value = 0;
  Interval interval;
};
Ratio RatioOfSums(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_STATISTICS_H_
