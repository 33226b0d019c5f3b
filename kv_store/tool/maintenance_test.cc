#include "kv_store/tool/maintenance.h"

#include <memory>
#include <sstream>

#include "gtest/gtest.h"
#include "kv_store/tier/memory_tier.h"
#include "kv_store/tier/small_geometry.h"

namespace hga {
namespace {

using absl::StatusCode;

class MaintenanceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(tier_.SetGeometry(g_).ok());
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < 12; ++i) tokens.push_back(i);
    hashes_ = ChunkHashes(model_, g_, tokens);
    WriteStep step;
    std::vector<std::vector<uint8_t>> data;
    for (size_t i = 0; i < 3; ++i) {
      ChunkRecord record{hashes_[i], i == 0 ? SeedHash(model_, g_) : hashes_[i - 1],
                         {tokens.begin() + 4 * i, tokens.begin() + 4 * i + 4}, {}};
      if (i == 2) {  // its blocks never reached the disk
        step.put_tokens.push_back(record);
        continue;
      }
      ChunkWrite write;
      for (uint32_t layer = 0; layer < g_.layers; ++layer) {
        data.push_back(std::vector<uint8_t>(g_.block_bytes(), static_cast<uint8_t>(16 * i + layer)));
        record.checksums.push_back(BlockChecksum(data.back().data(), g_.block_bytes()));
      }
      for (uint32_t layer = 0; layer < g_.layers; ++layer) write.blocks.push_back(data[g_.layers * i + layer].data());
      write.record = std::make_shared<ChunkRecord>(record);
      write.summary = std::make_shared<SummaryRecord>(SummaryRecord{"mean", "s"});
      step.put_chunks.push_back(write);
    }
    step.put_sessions.push_back({"book", model_, 1, 5, hashes_, {7}});
    ASSERT_TRUE(tier_.Write(step).ok());
  }
  StoreReport Verify() {
    const auto report = InspectStore(&tier_, true, nullptr);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : StoreReport();
  }
  std::string Export() {
    std::ostringstream out;
    EXPECT_TRUE(ExportSession(&tier_, "book", &out).ok());
    return out.str();
  }
  static absl::StatusOr<std::string> Import(KvTier* tier, const std::string& file, const std::string& as = "") {
    std::istringstream in(file);
    return ImportSession(tier, as, &in);
  }

  const KvGeometry g_ = SmallGeometry();
  const ModelFingerprint model_ = HashBytes("model");
  std::vector<ChunkHash> hashes_;
  MemoryTier tier_;
};

TEST_F(MaintenanceTest, CountsAndFindsNothingWrong) {
  const StoreReport report = Verify();
  EXPECT_EQ(report.problem_count, 0u);
  EXPECT_EQ(report.sessions, 1u);
  EXPECT_EQ(report.tokens, 13u);
  EXPECT_EQ(report.chunks, 2u);
  EXPECT_EQ(report.chunks_to_compute, 1u);
  EXPECT_EQ(report.blocks, 4u);
  MemoryTier empty;
  EXPECT_EQ(InspectStore(&empty, true, nullptr)->chunks, 0u);
}

TEST_F(MaintenanceTest, FindsWhatIsDamagedAndWhatIsMissing) {
  ASSERT_TRUE(tier_.DamageBlock({hashes_[1], 1}));
  EXPECT_EQ(Verify().problem_count, 1u);
  EXPECT_NE(Verify().problems[0].find("layer 1"), std::string::npos);
  EXPECT_EQ(InspectStore(&tier_, false, nullptr)->problem_count, 0u);
  WriteStep step;
  step.delete_chunks = {hashes_[0]};
  ASSERT_TRUE(tier_.Write(step).ok());
  EXPECT_EQ(Verify().problem_count, 2u);
}

TEST_F(MaintenanceTest, ASessionGoesOutAndIn) {
  const std::string file = Export();
  MemoryTier other;
  const auto name = Import(&other, file, "copy");
  ASSERT_TRUE(name.ok()) << name.status();
  EXPECT_EQ(*name, "copy");
  const auto report = InspectStore(&other, true, nullptr);
  EXPECT_EQ(report->problem_count, 0u);
  EXPECT_EQ(report->tokens, 13u);
  EXPECT_EQ(report->chunks, 2u);
  EXPECT_EQ(Import(&other, file, "copy").status().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(Import(&other, file, "../x").status().code(), StatusCode::kInvalidArgument);
  std::ostringstream none;
  EXPECT_EQ(ExportSession(&tier_, "none", &none).code(), StatusCode::kNotFound);
}

TEST_F(MaintenanceTest, GarbageIsRefused) {
  const std::string file = Export();
  for (size_t i = 0; i < file.size(); ++i) {
    MemoryTier other;
    std::string bad = file;
    bad[i] ^= 0x41;
    EXPECT_FALSE(Import(&other, bad).ok()) << "flipped byte " << i;
    EXPECT_FALSE(Import(&other, file.substr(0, i)).ok()) << "cut at " << i;
    EXPECT_TRUE(other.SessionNames().empty());
  }
  MemoryTier other;
  EXPECT_FALSE(Import(&other, file + "x").ok());
  KvGeometry shape = g_;
  shape.head_dim = 16;
  ASSERT_TRUE(other.SetGeometry(shape).ok());
  EXPECT_EQ(Import(&other, file).status().code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace hga
