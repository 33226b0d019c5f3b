#include "tests/bench/report.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

TEST(QuantileTest, NearestRank) {
  std::vector<double> samples = {5, 1, 3, 2, 4};
  EXPECT_EQ(Quantile(&samples, 0), 1);
  EXPECT_EQ(Quantile(&samples, 0.5), 3);
  EXPECT_EQ(Quantile(&samples, 0.99), 5);
}

TEST(ReportTest, JsonHoldsNumbersAndOrigin) {
  Report report;
  report.Add("ttft_s", "time", 1.5, "s");
  report.Add("", "not in the file", 7, "");
  char folder[] = "/tmp/hga.XXXXXX";
  const std::string path = std::string(mkdtemp(folder)) + "/r.json";
  ASSERT_TRUE(report.WriteJson(path, "abc", "run path").ok());
  const auto json = nlohmann::json::parse(std::ifstream(path));
  EXPECT_EQ(json["ttft_s"], 1.5);
  EXPECT_EQ(json["commit"], "abc");
  EXPECT_EQ(json["command"], "run path");
  EXPECT_EQ(json.size(), 4u);
  EXPECT_FALSE(report.WriteJson("/no/such/folder/x", "", "").ok());
}

}  // namespace
}  // namespace hga
