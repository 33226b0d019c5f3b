#include <string>

#include "absl/strings/match.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/model/hf_model.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gpu_worker/model/temporary_folder.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

// Of a small random checkpoint with `config` changed.
absl::Status Create(const RandomCheckpointOptions& options, const std::string& kind = "reference") {
  TemporaryFolder folder;
  EXPECT_TRUE(WriteRandomCheckpoint(folder.path(), options).ok());
  const auto model = ReadHfModel(folder.path());
  if (!model.ok()) return model.status();
  const ModelWeights& weights = (*model)->weights;
  return CreateBackend(kind, weights, weights.config.Geometry(), BackendOptions()).status();
}

TEST(CreateBackendTest, LlamaRunsAsItIsPublished) {
  for (const char* dtype : {"F32", "F16", "BF16"}) {
    RandomCheckpointOptions options;
    options.dtype = dtype;
    EXPECT_TRUE(Create(options, "reference").ok()) << dtype;
    EXPECT_TRUE(Create(options, "cpu").ok()) << dtype;
  }
  EXPECT_EQ(Create(RandomCheckpointOptions(), "abacus").code(), absl::StatusCode::kInvalidArgument);
}

TEST(CreateBackendTest, RefusesWhatWouldBeComputedWrong) {
  const auto expect = [](const RandomCheckpointOptions& options, const std::string& what) {
    const absl::Status status = Create(options);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), what)) << status;
  };
  RandomCheckpointOptions options;
  options.hf_class = "Qwen2ForCausalLM";
  expect(options, "has biases on queries, keys and values");
  options.hf_class = "Qwen3ForCausalLM";
  expect(options, "has norms of query and key heads");
  options.hf_class = "LlamaForCausalLM";
  options.fp8 = true;
  expect(options, "has FP8 weights");
}

}  // namespace
}  // namespace hga
