#include "tests/quality/statistics.h"

#include <algorithm>
#include <limits>
#include <random>

namespace hga {

Interval Bootstrap(size_t count, const std::function<double(const std::vector<uint32_t>& drawn)>& statistic,
                   uint32_t seed) {
  constexpr int kDraws = 10000;
  if (count == 0) return {};
  std::mt19937 random(seed);
  std::vector<double> values;
  std::vector<uint32_t> drawn(count);
  for (int i = 0; i < kDraws; ++i) {
    for (uint32_t& d : drawn) d = random() % count;
    values.push_back(statistic(drawn));
  }
  std::sort(values.begin(), values.end());
  return {values[kDraws * 25 / 1000], values[kDraws * 975 / 1000 - 1]};
}

Ratio RatioOfSums(const std::vector<double>& a, const std::vector<double>& b) {
  const auto ratio = [&](const std::vector<uint32_t>& drawn) {
    double above = 0, below = 0;
    for (const uint32_t i : drawn) {
      above += a[i];
      below += b[i];
    }
    return above / below;
  };
  std::vector<uint32_t> all(a.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint32_t>(i);
  Ratio result;
  result.value = ratio(all);
  const double none = std::numeric_limits<double>::quiet_NaN();
  result.interval = a.size() < 2 ? Interval{none, none} : Bootstrap(a.size(), ratio);
  return result;
}

}  // namespace hga
