#include "common/base/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/cores.h"
#include "common/base/fma_loop.h"

namespace hga {
namespace {

constexpr int kPasses = 5;
// As the cpu backend's products of weights do: the hardware asks ahead by itself, but stops at the end of a page.
constexpr size_t kWordsAhead = 2048 / sizeof(uint64_t);

// Median of what `work` (told its thread, returning what it did) does in a second, all threads of a pass together.
double MedianRate(const std::function<double(unsigned thread)>& work) {
  std::vector<double> rates;
  for (int pass = 0; pass < kPasses; ++pass) {
    std::vector<double> done(Cores());
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < done.size(); ++t) threads.emplace_back([&, t] { done[t] = work(t); });
    for (std::thread& thread : threads) thread.join();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    rates.push_back(std::accumulate(done.begin(), done.end(), 0.0) / seconds);
  }
  std::nth_element(rates.begin(), rates.begin() + kPasses / 2, rates.end());
  return rates[kPasses / 2];
}

}  // namespace

std::string MachineName() {
  std::ifstream info("/proc/cpuinfo");
  std::string model = "unknown CPU";
  for (std::string line; std::getline(info, line);) {
    if (absl::StartsWith(line, "model name")) {
      model = line.substr(std::min(line.size(), line.find(':') + 2));
      break;
    }
  }
  return absl::StrCat(model, ", ", Cores(), " cores");
}

uint64_t SumWords(const uint64_t* data, size_t count, size_t words_ahead) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8) {
    if (words_ahead > 0) __builtin_prefetch(data + std::min(i + words_ahead, count - 1));
    for (int j = 0; j < 8; ++j) sums[j] += data[i + j];
  }
  return std::accumulate(sums, sums + 8, uint64_t{0});
}

double MeasureReadBandwidth() {
  const size_t count = (size_t{512} << 20) / sizeof(uint64_t);
  const std::vector<uint64_t> data(count, 1);
  const size_t share = count / Cores() / 8 * 8;
  const auto rate = [&](size_t ahead) {
    // The sum is used, so that the reads cannot be optimised away.
    return MedianRate([&](unsigned t) {
      return SumWords(data.data() + t * share, share, ahead) == 0 ? 0.0 : static_cast<double>(share * sizeof(uint64_t));
    });
  };
  return std::max(rate(0), rate(kWordsAhead)) / 1e9;
}

double MeasureFmaRate() {
  constexpr uint64_t kRounds = uint64_t{1} << 24;  // some 30 ms
  return MedianRate([](unsigned) {
    const FmaWork work = RunFmaLoop(kRounds);
    return work.sum == 0 ? 0 : work.flops;
  }) / 1e9;
}

}  // namespace hga
