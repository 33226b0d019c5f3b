#include "common/metrics/process_metrics.h"

#include <fcntl.h>
#include <unistd.h>

#include <ctime>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace hga {
namespace {

std::map<std::string, double> Values() {
  std::map<std::string, double> values;
  for (const auto& family : ProcessMetrics().Collect()) {
    const auto& metric = family.metric.at(0);
    values[family.name] =
        family.type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value;
    EXPECT_FALSE(family.help.empty()) << family.name;
  }
  return values;
}

TEST(ProcessMetricsTest, OpenFilesAreCounted) {
  const double before = Values()["process_open_fds"];
  const int fd = ::open("/dev/null", O_RDONLY);
  EXPECT_EQ(Values()["process_open_fds"], before + 1);
  ::close(fd);
  EXPECT_EQ(Values()["process_open_fds"], before);
}

TEST(ProcessMetricsTest, ResidentMemoryGrowsByWhatIsTouched) {
  const double before = Values()["process_resident_memory_bytes"];
  const std::vector<char> touched(64 << 20, 1);
  EXPECT_GE(Values()["process_resident_memory_bytes"], before + (60 << 20)) << touched[0];
  EXPECT_GE(Values()["process_virtual_memory_bytes"], Values()["process_resident_memory_bytes"]);
}

TEST(ProcessMetricsTest, CpuTimeAdvances) {
  const double before = Values()["process_cpu_seconds_total"];
  const std::clock_t begin = std::clock();
  while (std::clock() - begin < CLOCKS_PER_SEC / 20) {
  }
  EXPECT_GT(Values()["process_cpu_seconds_total"], before);
}

TEST(ProcessMetricsTest, StartedInThePastAndHasThreads) {
  auto values = Values();
  const double now = static_cast<double>(std::time(nullptr));
  EXPECT_LE(values["process_start_time_seconds"], now + 1);
  EXPECT_GT(values["process_start_time_seconds"], now - 3600);
  EXPECT_GE(values["process_threads"], 1);
  EXPECT_GT(values["process_max_fds"], values["process_open_fds"]);
}

}  // namespace
}  // namespace hga
