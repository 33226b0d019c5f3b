#include "gpu_worker/device_defaults.h"

#include <vector>

#include "gtest/gtest.h"

namespace hga {
namespace {

GpuWorkerOptions Parsed(std::vector<const char*> flags) {
  flags.insert(flags.begin(), {"gpu_worker", "--model", "m", "--backend", "cuda"});
  GpuWorkerOptions options;
  EXPECT_FALSE(ParseOptions(static_cast<int>(flags.size()), flags.data(), &options).has_value());
  return options;
}

KvGeometry Geometry() {
  KvGeometry g;
  g.layers = 4;
  g.query_heads = g.kv_heads = 2;
  g.head_dim = 64;
  return g;
}

TEST(DeviceDefaultsTest, PromptsAttendWhatHalfOfTheArenaHolds) {
  const GpuWorkerOptions o = Parsed({});
  const EngineOptions engine = EngineOnDevice(o, Geometry(), 4 * 1000);
  EXPECT_EQ(engine.dense_prefill_tokens, 500u * 64);
  EXPECT_EQ(engine.prefill_batch_tokens, 512u);
  EXPECT_TRUE(engine.Validate(Geometry()).ok());
  EXPECT_EQ(EngineOnDevice(o, Geometry(), 8).dense_prefill_tokens, o.engine.dense_prefill_tokens) << "as on a CPU";
  EXPECT_EQ(EngineOnDevice(o, Geometry(), 0).dense_prefill_tokens, 1u << 20);
  EXPECT_TRUE(EngineOnDevice(o, Geometry(), 0).Validate(Geometry()).ok());
  EXPECT_EQ(SummariesOnDevice(o), kSummariesAsRoomAllows);
}

TEST(DeviceDefaultsTest, WhatIsGivenStays) {
  const GpuWorkerOptions o = Parsed({"--dense_prefill_tokens", "64", "--prefill_batch_tokens", "128",
                                     "--device_summaries", "0"});
  const EngineOptions engine = EngineOnDevice(o, Geometry(), 0);
  EXPECT_EQ(engine.dense_prefill_tokens, 64u);
  EXPECT_EQ(engine.prefill_batch_tokens, 128u);
  EXPECT_EQ(SummariesOnDevice(o), 0u);
  const GpuWorkerOptions narrow = Parsed({"--prefill_window_tokens", "256"});
  EXPECT_EQ(EngineOnDevice(narrow, Geometry(), 0).prefill_batch_tokens, 256u) << "no more than the window reaches back";
}

}  // namespace
}  // namespace hga
