#include "client/bench/bench_report.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

using testing::HasSubstr;
using testing::Not;

gpu_worker::v1::GetModelResponse Model() {
  gpu_worker::v1::GetModelResponse model;
  model.set_name("tiny");
  model.set_layers(2);
  model.set_query_heads(4);
  model.set_head_dim(16);
  model.set_kv_bytes_per_token(256);
  model.set_active_parameters(1000000);
  model.set_output_parameters(200000);
  model.set_decode_weight_bytes(1200000);
  return model;
}

// 100 tokens in 2 s, then 10 steps in 0.5 s.
gpu_worker::v1::Finished Finished() {
  gpu_worker::v1::Finished f;
  f.set_prompt_tokens(100);
  f.set_completion_tokens(11);
  f.set_decode_steps(10);
  f.set_prefill_s(2);
  f.set_ttft_s(2.5);
  f.set_decode_s(0.5);
  f.set_prefill_attended_fraction(0.5);
  f.set_attended_fraction(0.25);
  f.mutable_tiers()->set_held(6);
  f.mutable_tiers()->set_ram(3);
  f.mutable_tiers()->set_disk(1);
  return f;
}

BenchReport Report() {
  BenchReport report;
  report.model = Model();
  report.limits = {"a machine", 2, 0.5};
  report.rows = {{100, "routed", FiguresOf(Model(), Finished())}};
  report.resumes = {{100, 0.1, 2.5, 64}};
  return report;
}

TEST(BenchReportTest, SpeedsInTokensFlopsAndBytes) {
  const BenchFigures figures = FiguresOf(Model(), Finished());
  EXPECT_DOUBLE_EQ(figures.prefill_tps, 50);
  EXPECT_DOUBLE_EQ(figures.decode_tps, 20);
  // 5050 pairs of query and key in a dense model, half of them attended, by 4 heads of 16 in 2 layers.
  const double flops = 2 * (100 * 1e6 + 2e5) + 4 * 16 * 4 * 2 * 5050 * 0.5;
  EXPECT_DOUBLE_EQ(figures.prefill_gflops, flops / 2 / 1e9);
  // The steps see 101 to 110 keys, a quarter of which are attended.
  EXPECT_DOUBLE_EQ(figures.decode_gbps, (1.2e6 + 256 * 105.5 * 0.25) * 20 / 1e9);
  EXPECT_DOUBLE_EQ(figures.held, 0.6);
  EXPECT_DOUBLE_EQ(figures.ram, 0.3);
  EXPECT_DOUBLE_EQ(figures.disk, 0.1);
}

TEST(BenchReportTest, OnlyWhatIsComputedCounts) {
  gpu_worker::v1::Finished f = Finished();
  f.set_reused_tokens(64);
  const double flops = 2 * (36 * 1e6 + 2e5) + 4 * 16 * 4 * 2 * (5050 - 2080) * 0.5;
  EXPECT_DOUBLE_EQ(FiguresOf(Model(), f).prefill_gflops, flops / 2 / 1e9);
}

TEST(BenchReportTest, Medians) {
  EXPECT_DOUBLE_EQ(Median({3, 1, 2}), 2);
  EXPECT_DOUBLE_EQ(Median({4, 1, 3, 2}), 2.5);
  BenchFigures slow, middle, fast;
  slow.decode_tps = 1;
  middle.decode_tps = 2;
  fast.decode_tps = 30;
  fast.ttft_s = 0.1;
  EXPECT_EQ(MedianOf({fast, slow, middle}).decode_tps, 2);
  EXPECT_EQ(MedianOf({fast, slow, middle}).ttft_s, 0);
}

TEST(BenchReportTest, JsonIsFlatAndNamedByModeAndDepth) {
  const nlohmann::json json = BenchJson(Report());
  for (const auto& [key, value] : json.items()) EXPECT_TRUE(value.is_primitive()) << key;
  EXPECT_EQ(json["prefill_tps_routed_100"], 50);
  EXPECT_EQ(json["decode_tps_routed_100"], 20);
  EXPECT_EQ(json["ttft_s_routed_100"], 2.5);
  EXPECT_EQ(json["attended_fraction_100"], 0.25);
  EXPECT_EQ(json["resume_ttft_s_100"], 0.1);
  EXPECT_EQ(json["read_bandwidth_gbps"], 2);
  EXPECT_DOUBLE_EQ(json["decode_read_share_routed_100"], json["decode_gbps_routed_100"].get<double>() / 2);
}

TEST(BenchReportTest, WithoutLimitsThereAreNoShares) {
  BenchReport report = Report();
  report.limits = {};
  const nlohmann::json json = BenchJson(report);
  EXPECT_FALSE(json.contains("read_bandwidth_gbps"));
  EXPECT_FALSE(json.contains("decode_read_share_routed_100"));
  EXPECT_THAT(BenchHeader(report.model, report.limits), Not(HasSubstr("machine")));
  EXPECT_THAT(BenchLine(report.rows[0], report.limits), Not(HasSubstr("100%")));
}

TEST(BenchReportTest, ColumnsLineUp) {
  const BenchReport report = Report();
  const std::string header = BenchHeader(report.model, report.limits), line = BenchLine(report.rows[0], report.limits);
  EXPECT_THAT(header, HasSubstr("memory is read at 2.0 GB/s, f32 FMA does 0 GFLOP/s"));
  const std::string titles = header.substr(header.rfind("\n", header.size() - 2) + 1);
  EXPECT_EQ(titles.find('|'), line.find('|'));
  EXPECT_EQ(titles.rfind('|'), line.rfind('|'));
  EXPECT_THAT(line, HasSubstr("60.0/30.0/10.0%"));
  EXPECT_THAT(ResumeLine(report.resumes[0]), HasSubstr("0.100 s (4.0% of 2.500 s), 64 tokens"));
}

TEST(BenchReportTest, WithoutDecodeItsColumnsAreEmpty) {
  gpu_worker::v1::Finished f = Finished();
  f.set_decode_steps(0);
  f.set_completion_tokens(1);
  f.set_decode_s(0);
  BenchReport report = Report();
  report.rows[0].figures = FiguresOf(Model(), f);
  EXPECT_FALSE(BenchJson(report).contains("decode_tps_routed_100"));
  EXPECT_THAT(BenchLine(report.rows[0], report.limits), Not(HasSubstr("25.0%")));
}

}  // namespace
}  // namespace hga
