#include "common/metrics/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

namespace hga {
namespace {

// Fields of /proc/self/stat, counted from the process state on: proc(5) numbers it 3.
constexpr int kState = 3, kUserTicks = 14, kSystemTicks = 15, kThreads = 20, kStartTicks = 22, kVirtualBytes = 23,
              kResidentPages = 24;

// The command's name may hold spaces and brackets: what follows its last bracket is numbers.
std::vector<double> StatFields() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t end = line.rfind(')');
  if (end == std::string::npos) return {};
  std::istringstream rest(line.substr(end + 1));
  std::string word;
  rest >> word;  // the state, a letter
  std::vector<double> fields(kState + 1, 0);
  for (double value = 0; rest >> value;) fields.push_back(value);
  return fields;
}

double BootSeconds() {
  std::ifstream file("/proc/stat");
  for (std::string word; file >> word;) {
    double seconds = 0;
    if (word == "btime" && file >> seconds) return seconds;
  }
  return 0;
}

double OpenFiles() {
  std::error_code error;
  double count = 0;
  for (std::filesystem::directory_iterator it("/proc/self/fd", error), end; !error && it != end; it.increment(error)) {
    ++count;
  }
  return count > 0 ? count - 1 : 0;  // the folder itself was open
}

double MaxOpenFiles() {
  rlimit limit{};
  return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? static_cast<double>(limit.rlim_cur) : 0;
}

prometheus::MetricFamily One(const char* name, const char* help, prometheus::MetricType type, double value) {
  prometheus::ClientMetric metric;
  if (type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return {name, help, type, {metric}};
}

}  // namespace

std::vector<prometheus::MetricFamily> ProcessMetrics::Collect() const {
  constexpr auto kCounter = prometheus::MetricType::Counter;
  constexpr auto kGauge = prometheus::MetricType::Gauge;
  std::vector<prometheus::MetricFamily> families = {
      One("process_open_fds", "Number of open file descriptors", kGauge, OpenFiles()),
      One("process_max_fds", "Maximum number of open file descriptors", kGauge, MaxOpenFiles())};
  const std::vector<double> stat = StatFields();
  if (stat.size() <= kResidentPages) return families;
  const double ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
  const double page = static_cast<double>(::sysconf(_SC_PAGESIZE));
  families.push_back(One("process_cpu_seconds_total", "Total user and system CPU time spent in seconds", kCounter,
                         (stat[kUserTicks] + stat[kSystemTicks]) / ticks));
  families.push_back(One("process_threads", "Number of OS threads in the process", kGauge, stat[kThreads]));
  families.push_back(One("process_start_time_seconds", "Start time of the process since unix epoch in seconds",
                         kGauge, BootSeconds() + stat[kStartTicks] / ticks));
  families.push_back(
      One("process_virtual_memory_bytes", "Virtual memory size in bytes", kGauge, stat[kVirtualBytes]));
  families.push_back(One("process_resident_memory_bytes", "Resident memory size in bytes, the mapped arena included",
                         kGauge, stat[kResidentPages] * page));
  return families;
}

}  // namespace hga
