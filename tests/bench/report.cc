#include "tests/bench/report.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace hga {
uint64_t SumWords(const uint64_t* data, size_t count) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8) {
    for (int j = 0; j < 8; ++j) sums[j] += data[i + j];
  }
  return std::accumulate(sums, sums + 8, uint64_t{0});
}

void Report::Add(const std::string& key, const std::string& what, double value, const std::string& unit) {
  std::printf("  %-58s %12.4g %s\n", what.c_str(), value, unit.c_str());
  std::fflush(stdout);
  if (!key.empty()) numbers_.emplace_back(key, value);
}

absl::Status Report::WriteJson(const std::string& path, const std::string& commit, const std::string& command) const {
  nlohmann::ordered_json json;
  for (const auto& [key, value] : numbers_) json[key] = value;
  json["machine"] = MachineName();
  json["commit"] = commit;
  json["command"] = command;
  std::ofstream file(path);
  file << json.dump(2) << "\n";
  file.close();
  if (file.fail()) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

std::string MachineName() {
  std::ifstream info("/proc/cpuinfo");
  std::string model = "unknown CPU";
  for (std::string line; std::getline(info, line);) {
    if (absl::StartsWith(line, "model name")) {
      model = line.substr(std::min(line.size(), line.find(':') + 2));
      break;
    }
  }
  return absl::StrCat(model, ", ", std::thread::hardware_concurrency(), " cores");
}

double MeasureReadBandwidth() {
  const size_t count = (size_t{512} << 20) / sizeof(uint64_t);
  const std::vector<uint64_t> data(count, 1);
  const unsigned threads = std::max(1u, std::thread::hardware_concurrency());
  std::vector<double> samples;
  for (int pass = 0; pass < 5; ++pass) {
    std::vector<uint64_t> sums(threads);
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> readers;
    const size_t share = count / threads;
    for (unsigned t = 0; t < threads; ++t) {
      readers.emplace_back([&, t] { sums[t] = SumWords(data.data() + t * share, share); });
    }
    for (std::thread& reader : readers) reader.join();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    // The sum is used, so that the reads cannot be optimised away.
    if (std::accumulate(sums.begin(), sums.end(), uint64_t{0}) == 0) return 0;
    samples.push_back(count * sizeof(uint64_t) / seconds / 1e9);
  }
  return Quantile(&samples, 0.5);
}

double Quantile(std::vector<double>* samples, double q) {
  if (samples->empty()) return std::nan("");
  std::sort(samples->begin(), samples->end());
  const size_t rank = static_cast<size_t>(std::ceil(q * samples->size()));
  return (*samples)[std::min(samples->size() - 1, rank == 0 ? 0 : rank - 1)];
}

}  // namespace hga
