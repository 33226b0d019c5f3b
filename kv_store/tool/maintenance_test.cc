#include "kv_store/tool/maintenance.h"

#include "gtest/gtest.h"
#include "kv_store/tool/testing_book.h"

namespace hga {
namespace {

class MaintenanceTest : public BookTest {
 protected:
  StoreReport Verify() {
    const auto report = InspectStore(&tier_, true, nullptr);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : StoreReport();
  }
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

}  // namespace
}  // namespace hga
