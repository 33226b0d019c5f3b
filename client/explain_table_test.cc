#include "client/statistics.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

using testing::HasSubstr;
using testing::Not;

gpu_worker::v1::ExplainResponse Explained() {
  gpu_worker::v1::ExplainResponse e;
  e.set_position(1400);
  e.set_method("sketch");
  e.set_by_router(true);
  e.set_budget_keys(96);
  e.set_mean_budget_keys(64);
  e.set_shared(true);
  e.set_least_share(0.0005);
  e.set_sink_tokens(16);
  e.set_window_start(1344);
  auto* head = e.add_heads();
  head->set_always(0.5);
  head->set_selected(0.375);
  head->set_missed(0.125);
  head->set_estimated(0.25);
  head->set_keys(64);
  head->set_keys_share(0.75);
  auto* chunk = head->add_chunks();
  chunk->set_chunk(5);
  chunk->set_first_position(320);
  chunk->set_keys(3);
  chunk->set_coarse_rank(17);
  chunk->set_best_position(333);
  chunk->set_mass(0.0625);
  return e;
}

TEST(ExplainTableTest, TableAndJson) {
  const std::string table = ExplainTable(Explained(), 3);
  EXPECT_THAT(table, HasSubstr("position 1400 (token 0), layer 3, summaries: sketch\n"));
  EXPECT_THAT(table, HasSubstr("before 16 and from 1344 on; between them at most 96 per KV head by routing, shared"));
  EXPECT_THAT(table, HasSubstr("64 on average over the layers; a key needs 0.0500% of the attention"));
  EXPECT_THAT(table, HasSubstr("always, 37.5% by 64 selected keys (estimated 25.0%), 12.5% missed; "
                               "75.0% of the layer's"));
  EXPECT_THAT(table, HasSubstr("#17"));
  EXPECT_THAT(table, HasSubstr("6.25%"));
  const auto json = ExplainJson(Explained(), 3);
  EXPECT_EQ(json["layer"], 3);
  EXPECT_EQ(json["budget_keys"], 96);
  EXPECT_EQ(json["heads"][0]["keys_share"], 0.75);
  EXPECT_EQ(json["heads"][0]["chunks"][0]["best_position"], 333);
}

TEST(ExplainTableTest, ShortSequencesAreAttendedWhole) {
  auto e = Explained();
  e.set_window_start(0);
  e.clear_heads();
  EXPECT_THAT(ExplainTable(e, 0), HasSubstr("everything is attended"));
  EXPECT_THAT(ExplainTable(e, 0), Not(HasSubstr("COARSE"))) << "there is no table to explain";
}

TEST(ExplainTableTest, WithoutRouterThereIsNoBudget) {
  auto e = Explained();
  e.set_by_router(false);
  EXPECT_THAT(ExplainTable(e, 3), HasSubstr("between them everything (no routing)"));
}

TEST(ExplainTableTest, ABudgetThatIsNotSharedHasNoMean) {
  auto e = Explained();
  e.set_shared(false);
  EXPECT_THAT(ExplainTable(e, 3), HasSubstr("at most 96 per KV head by routing\n"));
  EXPECT_THAT(ExplainTable(e, 3), Not(HasSubstr("on average")));
}

TEST(ExplainTableTest, WarningsComeLast) {
  auto e = Explained();
  e.add_warnings("the router is away");
  const std::string table = ExplainTable(e, 3);
  EXPECT_EQ(table.substr(table.rfind("warning: ")), "warning: the router is away\n");
}

}  // namespace
}  // namespace hga
