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
  const MemoryPlan plan = PlanMemory(KnownModels()[3].shapes(), **FindSummaryMethod("sketch"), EngineOptions(), 1);
  EXPECT_NEAR(static_cast<double>(plan.weights) / (1 << 30), 28.5, 0.1);
}

TEST(SizesTest, ARowForEachModelAndContext) {
  std::ostringstream out;
  ASSERT_TRUE(WriteSizes(EngineOptions(), out).ok());
  const std::string text = out.str();
  size_t rows = 2;
  for (const KnownModel& model : KnownModels()) rows += model.contexts.size();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), rows);
  // 64K tokens of 96 KiB.
  EXPECT_NE(text.find("| Qwen3-30B-A3B-FP8 | 64K | 28 | 6.00 |"), std::string::npos) << text;
}

TEST(SizesTest, UnknownSummariesAreRefused) {
  EngineOptions engine;
  engine.summary_method = "guess";
  std::ostringstream out;
  EXPECT_FALSE(WriteSizes(engine, out).ok());
}

}  // namespace
}  // namespace hga
