#include "tests/bench/report.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/machine_limits.h"
#include "nlohmann/json.hpp"

namespace hga {

double CpuSeconds() {
  rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + t.tv_usec / 1e6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
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

double Quantile(std::vector<double>* samples, double q) {
  if (samples->empty()) return std::nan("");
  std::sort(samples->begin(), samples->end());
  const size_t rank = static_cast<size_t>(std::ceil(q * samples->size()));
  return (*samples)[std::min(samples->size() - 1, rank == 0 ? 0 : rank - 1)];
}

}  // namespace hga
