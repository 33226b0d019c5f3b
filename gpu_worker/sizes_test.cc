#include "gpu_worker/sizes.h"

#include <algorithm>
#include <iterator>
#include <sstream>

#include "gpu_worker/memory_plan.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

TEST(SizesTest, ShapesHaveThePublishedParameters) {
  const double published[] = {134.5e6, 596e6, 8.19e9, 30.53e9};
  ASSERT_EQ(KnownModels().size(), std::size(published));
  for (size_t i = 0; i < std::size(published); ++i) {
    EXPECT_NEAR(KnownModels()[i].parameters(), published[i], 0.002 * published[i]) << KnownModels()[i].config.name;
  }
}

TEST(SizesTest, BytesPerTokenAndOfTheWeights) {
  EXPECT_EQ(KnownModels()[0].config.Geometry().bytes_per_token(), 22.5 * 1024);
  EXPECT_EQ(KnownModels()[3].config.Geometry().bytes_per_token(), 96u << 10);
  // As `--inspect` counts of the published checkpoint, whose embedding of 0.6 GiB stays on the host.
  const MemoryPlan plan = PlanMemory(KnownModels()[3].shapes(), **FindSummaryMethod("sketch"), EngineOptions(), 1, 0);
  EXPECT_NEAR(static_cast<double>(plan.weights) / (1 << 30), 28.5, 0.1);
}

TEST(SizesTest, ARowForEachModelAndContext) {
  std::ostringstream out;
  ASSERT_TRUE(WriteSizes(EngineOptions(), 0, out).ok());
  const std::string text = out.str();
  size_t rows = 2;
  for (const KnownModel& model : KnownModels()) rows += model.contexts.size();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), rows);
  // 64K tokens of 96 KiB.
  EXPECT_NE(text.find("| Qwen3-30B-A3B-FP8 | 64K | 28 | 6.00 |"), std::string::npos) << text;
}

TEST(SizesTest, SummariesOnTheDeviceKeepToTheirBudget) {
  const auto plan = [](uint64_t budget) {
    return PlanMemory(KnownModels()[3].shapes(), **FindSummaryMethod("sketch"), EngineOptions(), 1, budget);
  };
  constexpr uint64_t kBudget = uint64_t{256} << 20;
  EXPECT_LE(plan(kBudget).summaries, kBudget);
  EXPECT_GT(plan(kBudget).summaries, kBudget - (1 << 20));  // a chunk's are a quarter of that
  EXPECT_EQ(plan(kBudget).required() - plan(0).required(), plan(kBudget).summaries);
  EXPECT_EQ(plan(100 << 10).summaries, 0u);
  const SummaryMethod& other = **FindSummaryMethod("cuboid8");
  EXPECT_EQ(PlanMemory(KnownModels()[3].shapes(), other, EngineOptions(), 1, kBudget).summaries, 0u);
}

TEST(SizesTest, UnknownSummariesAreRefused) {
  EngineOptions engine;
  engine.summary_method = "guess";
  std::ostringstream out;
  EXPECT_FALSE(WriteSizes(engine, 0, out).ok());
}

}  // namespace
}  // namespace hga
