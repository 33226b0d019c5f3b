#include "gpu_worker/options.h"

#include <vector>

#include "gtest/gtest.h"

namespace hga {
namespace {

std::optional<int> Parse(std::vector<const char*> flags, GpuWorkerOptions* options) {
  flags.insert(flags.begin(), {"gpu_worker", "--model=some.gguf"});
  return ParseOptions(static_cast<int>(flags.size()), flags.data(), options);
}

BudgetOptions BudgetOf(const std::vector<const char*>& flags) {
  GpuWorkerOptions options;
  EXPECT_EQ(Parse(flags, &options), std::nullopt);
  return options.engine.budget;
}

TEST(GpuWorkerOptionsTest, FlagsAndSizes) {
  GpuWorkerOptions options;
  EXPECT_EQ(Parse({"--listen=unix:/tmp/x.sock", "--kv_dtype=int8", "--key_cache=3MiB", "--kv_ring=false",
                   "--bf16_copy=true"},
                  &options),
            std::nullopt);
  EXPECT_EQ(options.listen, "unix:/tmp/x.sock");
  EXPECT_EQ(options.kv_dtype, "int8");
  EXPECT_EQ(options.engine.key_cache_bytes, 3u << 20);
  EXPECT_FALSE(options.kv_ring);
  EXPECT_TRUE(options.bf16_copy);
  EXPECT_TRUE(options.Gives("--kv_dtype"));
  EXPECT_FALSE(options.Gives("--threads"));
}

// Who names a budget means it of all of the history, unless another flag says otherwise.
TEST(GpuWorkerOptionsTest, ABudgetThatIsNamedStaysLinear) {
  BudgetOptions named;
  named.KeepAsNamed();
  const BudgetOptions usual;
  ASSERT_NE(named.linear_tokens, usual.linear_tokens);
  ASSERT_NE(named.dense_decode_tokens, usual.dense_decode_tokens);
  for (const char* flag : {"--budget_fraction=0.1", "--budget_min_tokens=512", "--budget_max_tokens=4096"}) {
    const BudgetOptions budget = BudgetOf({flag});
    EXPECT_EQ(budget.linear_tokens, named.linear_tokens) << flag;
    EXPECT_EQ(budget.dense_decode_tokens, named.dense_decode_tokens) << flag;
  }
  const BudgetOptions other = BudgetOf({"--budget_layer_cap=3", "--budget_shared=false"});
  EXPECT_EQ(other.linear_tokens, usual.linear_tokens);
  EXPECT_EQ(other.dense_decode_tokens, usual.dense_decode_tokens);
  const BudgetOptions both =
      BudgetOf({"--budget_linear_tokens=9000", "--budget_fraction=0.1", "--dense_decode_tokens=77"});
  EXPECT_EQ(both.linear_tokens, 9000u);
  EXPECT_EQ(both.dense_decode_tokens, 77u);
}

TEST(GpuWorkerOptionsTest, BadValuesEndWithTwo) {
  for (const char* flag :
       {"--listen=nowhere", "--kv_store=nowhere", "--router=nowhere", "--router_transport=dove", "--kv_transport=post",
        "--backend=abacus", "--kv_dtype=int3", "--threads=-1", "--router_spin_us=-1", "--budget_fraction=0",
        "--key_cache=much", "--model=", "--unknown=1"}) {
    GpuWorkerOptions options;
    EXPECT_EQ(Parse({flag}, &options), 2) << flag;
  }
  GpuWorkerOptions options;
  EXPECT_EQ(Parse({"--trace=x.json", "--trace_bytes=1KiB"}, &options), 2);
}

TEST(GpuWorkerOptionsTest, HelpEndsWithZero) {
  GpuWorkerOptions options;
  EXPECT_EQ(Parse({"--help"}, &options), 0);
}

}  // namespace
}  // namespace hga
