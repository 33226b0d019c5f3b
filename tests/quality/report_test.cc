// From a results file to numbers and plots.
#include <cmath>

#include "common/base/temporary_folder.h"
#include "gtest/gtest.h"
#include "tests/quality/bench.h"
#include "tests/quality/statistics.h"
#include "tests/quality/svg_plot.h"

namespace hga {
namespace {

using Json = nlohmann::ordered_json;

// `gap` over a dense loss of 2.5 nats, 100 queries in each of two buckets.
Json LossLine(const std::string& document, const std::string& method, uint32_t keys, double gap,
              uint32_t length = 8192) {
  Json line = {{"kind", "loss"},     {"model", "m"},   {"document", document}, {"split", "dev"}, {"length", length},
               {"method", method}, {"keys", keys}, {"path", "decode"},     {"seconds", 1}};
  for (const uint32_t first : {512, 4096}) {
    LossBucket b;
    b.first = first;
    b.queries = 100;
    b.dense_nll = 250;
    b.nll = 250 + 100 * gap * (first == 512 ? 0 : 2);
    b.keys = 100.0 * keys;
    line["buckets"].push_back(ToJson(b));
  }
  line["key"] = document + method + std::to_string(keys) + std::to_string(length);
  return line;
}

class ReportTest : public testing::Test {
 protected:
  void Add(const Json& line) { lines_ += line.dump() + "\n"; }

  absl::StatusOr<Json> Run() {
    folder_.Write("r.jsonl", lines_);
    QualityOptions options;
    options.out = folder_.File("r.jsonl");
    options.json = folder_.File("r.json");
    options.svg_dir = folder_.File("plots");
    const absl::Status status = RunReport(options);
    if (!status.ok()) return status;
    return Json::parse(folder_.Read("r.json"));
  }

  TemporaryFolder folder_;
  std::string lines_;
};

TEST_F(ReportTest, GapsAndTheirRatioOverTheDocumentsOfBoth) {
  Add(LossLine("a", "dealt", 512, 0.01));
  Add(LossLine("b", "dealt", 512, 0.03));
  Add(LossLine("a", "mean_hga", 512, 0.08));
  Add(LossLine("c", "mean_hga", 512, 0.5));
  const auto json = Run();
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_NEAR((*json)["gap_nats_8k_512"], 0.02, 1e-9);
  EXPECT_NEAR((*json)["gap_nats_8k_512_low"], 0.01, 1e-9);
  EXPECT_NEAR((*json)["gap_nats_8k_512_high"], 0.03, 1e-9);
  EXPECT_NEAR((*json)["gap_ratio_vs_hga_8k_512"], 0.01 / 0.08, 1e-9);
  EXPECT_TRUE((*json)["gap_nats_8k_1024"].is_null());
  EXPECT_EQ((*json)["documents_8k"], 2);
}

TEST_F(ReportTest, EveryLengthHasItsOwnNumbers) {
  Add(LossLine("a", "dealt", 512, 0.01, 2048));
  Add(LossLine("a", "dealt", 512, 0.04));
  const auto json = Run();
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_NEAR((*json)["gap_nats_2k_512"], 0.01, 1e-9);
  EXPECT_NEAR((*json)["gap_nats_8k_512"], 0.04, 1e-9);
}

TEST_F(ReportTest, PlotsHaveALinePerMethod) {
  for (const uint32_t keys : {256, 512}) {
    Add(LossLine("a", "dealt", keys, 0.01));
    Add(LossLine("a", "window", keys, 0.1));
  }
  ASSERT_TRUE(Run().ok());
  const std::string svg = folder_.Read("plots/gap_decode_8192.svg");
  EXPECT_NE(svg.find(">dealt</text>"), std::string::npos);
  EXPECT_NE(svg.find(">window</text>"), std::string::npos);
  EXPECT_NE(folder_.Read("plots/position_decode_8192_512.svg"), "");
}

TEST_F(ReportTest, ABadLineIsNamed) {
  Json line = LossLine("a", "dealt", 512, 0.01);
  line["buckets"][0].erase("nll");
  Add(line);
  const auto json = Run();
  EXPECT_EQ(json.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(json.status().message().find("nll"), absl::string_view::npos) << json.status();
  lines_ = "not a result\n";
  EXPECT_EQ(Run().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(BootstrapTest, IntervalsHoldTheMeanAndShrinkWithMoreDocuments) {
  std::vector<double> few, many, ones;
  for (int i = 0; i < 100; ++i) {
    many.push_back(i % 10);
    if (i < 10) few.push_back(i % 10);
  }
  ones.assign(100, 1);
  const Ratio wide = RatioOfSums(few, std::vector<double>(10, 1)), narrow = RatioOfSums(many, ones);
  EXPECT_DOUBLE_EQ(narrow.value, 4.5);
  EXPECT_LT(narrow.interval.low, 4.5);
  EXPECT_GT(narrow.interval.high, 4.5);
  // sd of the mean: 2.87 / sqrt(n)
  EXPECT_NEAR(narrow.interval.high - narrow.interval.low, 2 * 1.96 * 0.287, 0.06);
  EXPECT_NEAR(wide.interval.high - wide.interval.low, 2 * 1.96 * 0.908, 0.25);
  EXPECT_EQ(RatioOfSums(many, ones).interval.low, narrow.interval.low);
}

TEST(SvgPlotTest, LeavesOutWhatCannotBeDrawnAndEscapesText) {
  Plot plot;
  plot.title = "a < b & c";
  plot.series = {
      {"s", {{512, 0.01, 0.005, 0.02}, {1024, -0.001, -0.002, 0}, {0, 1, 1, 1}, {2048, std::nan(""), 0, 0}}}};
  const std::string svg = SvgOf(plot);
  EXPECT_NE(svg.find("a &lt; b &amp; c"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  size_t points = 0;
  for (size_t at = svg.find("<circle"); at != std::string::npos; at = svg.find("<circle", at + 1)) ++points;
  EXPECT_EQ(points, 2);
  EXPECT_EQ(SvgOf(Plot()).find("inf"), std::string::npos);
}

}  // namespace
}  // namespace hga
