#include "client/statistics.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

using gpu_worker::v1::Finished;
using testing::HasSubstr;
using testing::Not;

Finished Example() {
  Finished f;
  f.set_reason(Finished::REASON_STOP);
  f.set_prompt_tokens(7000);
  f.set_reused_tokens(6000);
  f.set_completion_tokens(21);
  f.set_decode_steps(20);
  f.set_ttft_s(1.25);
  f.set_prefill_s(2);
  f.set_decode_s(0.5);
  f.set_attended_fraction(0.125);
  f.mutable_tiers()->set_held(700);
  f.mutable_tiers()->set_ram(200);
  f.mutable_tiers()->set_disk(100);
  return f;
}

TEST(StatisticsTest, Table) {
  EXPECT_EQ(StatisticsTable(Example()),
            "  prompt             7000 tokens, 6000 of them from the store (85.7%)\n"
            "  prefill            500.0 tokens/s (1000 tokens in 2.00 s)\n"
            "  first token        after 1.250 s\n"
            "  decode             40.0 tokens/s (21 tokens in 0.50 s)\n"
            "  history attended   12.5% of the keys a dense model reads\n"
            "  blocks found       held 70.0%, RAM 20.0%, disk 10.0% (of 1000 blocks)\n");
}

TEST(StatisticsTest, TableShowsWhatIsOutOfTheOrdinary) {
  Finished f = Example();
  f.set_reason(Finished::REASON_LENGTH);
  f.set_dense_fallback_steps(3);
  f.add_warnings("router is away");
  f.mutable_tiers()->set_device(1000);
  f.mutable_tiers()->set_keys(4000);
  f.mutable_tiers()->set_recomputed(2000);
  const std::string table = StatisticsTable(f);
  EXPECT_THAT(table, HasSubstr("3 steps attended to everything"));
  EXPECT_THAT(table, HasSubstr("warning            router is away\n"));
  EXPECT_THAT(table, HasSubstr("--max-tokens"));
  EXPECT_THAT(table, HasSubstr("device 12.5%, key cache 50.0%, held 8.8%"));
  EXPECT_THAT(table, HasSubstr("recomputed 25.0%"));
  EXPECT_EQ(StatisticsJson(f, "")["blocks"]["keys"], 4000);
  EXPECT_EQ(StatisticsJson(f, "")["hit_percent"]["keys"], 50.0);
}

TEST(StatisticsTest, EmptyFiguresDivideByNothing) {
  const Finished none;
  EXPECT_EQ(PrefillRate(none), 0);
  EXPECT_EQ(DecodeRate(none), 0);
  EXPECT_THAT(StatisticsTable(none), HasSubstr("no block was asked for"));
  EXPECT_THAT(StatisticsTable(none), Not(HasSubstr("nan")));
  EXPECT_EQ(StatisticsJson(none, "")["hit_percent"]["held"], 0);
}

TEST(StatisticsTest, DecodeRateWithoutStepCount) {
  Finished f = Example();
  f.set_decode_steps(0);
  EXPECT_DOUBLE_EQ(DecodeRate(f), 40);  // the first of 21 tokens is the prefill's
}

TEST(StatisticsTest, PrefillOnlyHasNoDecodeRows) {
  Finished f = Example();
  f.set_reason(Finished::REASON_PREFILL_ONLY);
  EXPECT_THAT(StatisticsTable(f), Not(HasSubstr("decode")));
}

TEST(StatisticsTest, Json) {
  const auto json = StatisticsJson(Example(), "s");
  EXPECT_EQ(json["session"], "s");
  EXPECT_EQ(json["reason"], "stop");
  EXPECT_EQ(json["reused_tokens"], 6000);
  EXPECT_EQ(json["decode_tokens_per_s"], 40.0);
  EXPECT_EQ(json["hit_percent"]["disk"], 10.0);
  EXPECT_EQ(json["blocks"]["held"], 700);
  EXPECT_EQ(Dump(json).find('\n'), std::string::npos);
}

TEST(StatisticsTest, DumpSurvivesBadUtf8) { EXPECT_EQ(Dump("a\xff"), "\"a\xef\xbf\xbd\""); }

TEST(StatisticsTest, HumanBytes) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(uint64_t{3} << 50), "3072.0 TiB");
}

TEST(StatisticsTest, SessionsNewestFirst) {
  gpu_worker::v1::ListSessionsResponse sessions;
  EXPECT_THAT(SessionsTable(sessions, 0), HasSubstr("no sessions"));
  auto* old = sessions.add_sessions();
  old->set_name("old");
  old->set_last_used_unix_s(1000);
  auto* fresh = sessions.add_sessions();
  fresh->set_name("fresh");
  fresh->set_last_used_unix_s(1000 + 7200 - 61);
  fresh->set_tokens(640);
  fresh->set_chunks(10);
  fresh->set_chunks_durable(9);
  fresh->set_open(true);
  EXPECT_EQ(SessionsTable(sessions, 1000 + 7200),
            "NAME     TOKENS        K/V       DURABLE  LAST USED\n"
            "fresh       640        0 B          9/10  1 min ago, in use\n"
            "old           0        0 B           0/0  2 h ago\n");
  EXPECT_EQ(SessionsJson(sessions)["sessions"].size(), 2);
}

TEST(StatisticsTest, StatsSayWhatIsNotAttached) {
  gpu_worker::v1::GetStatsResponse stats;
  stats.set_kv_store_attached(true);
  EXPECT_THAT(StatsTable(stats), HasSubstr("kv_store           attached"));
  EXPECT_THAT(StatsTable(stats), HasSubstr("router             NOT attached"));
  EXPECT_EQ(StatsJson(stats)["router_attached"], false);
}

TEST(StatisticsTest, IndexBytesPerToken) {
  gpu_worker::v1::GetStatsResponse stats;
  EXPECT_EQ(StatsJson(stats)["router"]["index_bytes_per_token"], 0);
  stats.mutable_router()->set_tokens(128);
  stats.mutable_router()->set_index_bytes(192000);
  EXPECT_EQ(StatsJson(stats)["router"]["index_bytes_per_token"], 1500);
  EXPECT_THAT(StatsTable(stats), HasSubstr("187.5 KiB (1500 bytes per token)\n"));
}

}  // namespace
}  // namespace hga
