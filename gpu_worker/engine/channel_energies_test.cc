#include "gpu_worker/engine/channel_energies.h"

#include "common/base/temporary_folder.h"
#include "gpu_worker/model/tiny_model.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

class ChannelEnergiesTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string path = folder_.File("tiny.gguf");
    ASSERT_TRUE(WriteTinyGguf(path, TinyModelOptions()).ok());
    auto model = LoadModel(path);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    geometry_ = model_->weights.config.Geometry();
  }
  std::string Measure(const std::string& backend, int threads = 1, uint32_t rows = 64) {
    BackendOptions options;
    options.threads = threads;
    options.max_rows = rows;
    auto created = CreateBackend(backend, model_->weights, geometry_, options);
    EXPECT_TRUE(created.ok()) << created.status();
    auto energies = MeasureChannelEnergies(*model_, model_->weights.config.Geometry(), created->get());
    EXPECT_TRUE(energies.ok()) << energies.status();
    return *energies;
  }

  TemporaryFolder folder_;
  std::unique_ptr<LoadedModel> model_;
  KvGeometry geometry_;
};

TEST_F(ChannelEnergiesTest, AreTheSameRunToRunAndAboutSoOnEveryBackend) {
  const std::string energies = Measure("cpu");
  EXPECT_TRUE(SketchPlan::Create(geometry_, energies).ok());
  EXPECT_EQ(energies, Measure("cpu"));
  EXPECT_EQ(energies, Measure("cpu", 2, 256));
  const std::string reference = Measure("reference");
  ASSERT_EQ(energies.size(), reference.size());
  for (size_t i = 0; i < energies.size(); ++i) {
    EXPECT_NEAR(static_cast<uint8_t>(energies[i]), static_cast<uint8_t>(reference[i]), 1) << i;
  }
}

TEST_F(ChannelEnergiesTest, ChannelsThatTurnTogetherHaveTheSame) {
  const std::string energies = Measure("cpu");
  const uint32_t turned = model_->weights.config.rope_dims, head_dim = geometry_.head_dim;
  const bool adjacent = model_->weights.config.rope_style == RopeStyle::kAdjacentPairs;
  bool differ = false;
  for (size_t head = 0; head < energies.size() / (2 * head_dim); ++head) {
    const auto energy = [&](uint32_t c) { return energies.substr(2 * (head * head_dim + c), 2); };
    for (uint32_t i = 0; i < turned / 2; ++i) {
      EXPECT_EQ(energy(adjacent ? 2 * i : i), energy(adjacent ? 2 * i + 1 : i + turned / 2));
      differ |= energy(adjacent ? 2 * i : i) != energy(0);
    }
  }
  EXPECT_TRUE(differ);
}

TEST_F(ChannelEnergiesTest, OnlyMethodsThatDealOutBitsAreMeasuredFor) {
  const KvGeometry g = model_->weights.config.Geometry();
  EXPECT_EQ(*PrepareSummaryMethod("sketch", *model_, g, nullptr), *FindSummaryMethod("sketch"));
  EXPECT_EQ(PrepareSummaryMethod("none", *model_, g, nullptr).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace hga
