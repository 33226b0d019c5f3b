// Greedy answers of small models on the device, simulated or real, against the cpu backend's. Where the two differ, the
// cpu's own logits must be near a tie; those are counted and shown, and both go on with the cpu's token.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "common/base/temporary_folder.h"
#include "gpu_worker/backend/cuda/testing_device.h"
#include "gpu_worker/backend/sequence_runner.h"
#include "gpu_worker/model/hf_model.h"
#include "gpu_worker/model/loaded_model.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr int kAnswerTokens = 64;
// Weights of the device are bf16 where the file's are not: logits move by a few hundredths.
constexpr float kNearTie = 0.1f;

uint32_t Best(const float* logits, uint32_t vocab) {
  return static_cast<uint32_t>(std::max_element(logits, logits + vocab) - logits);
}

void ExpectTheSameTokens(const ModelWeights& weights, const std::vector<uint32_t>& prompt, const std::string& what) {
  SequenceRunner cpu("cpu", weights), device(kOnGpu ? "cuda" : "emulated", weights);
  const uint32_t vocab = weights.config.vocab_size;
  std::vector<uint32_t> input = prompt;
  int equal = 0, near_ties = 0;
  for (int i = 0; i < kAnswerTokens; ++i) {
    const std::vector<float> expected = cpu.Step(input), actual = device.Step(input);
    const float* last = expected.data() + expected.size() - vocab;
    const uint32_t token = Best(last, vocab), other = Best(actual.data() + actual.size() - vocab, vocab);
    equal += token == other;
    if (token != other) {
      ++near_ties;
      std::printf("%s: token %d is %u on the cpu, %u on the device; the cpu's logits are %g apart\n", what.c_str(), i,
                  token, other, last[token] - last[other]);
      EXPECT_LT(last[token] - last[other], kNearTie) << what << ", token " << i;
    }
    input = {token};
  }
  std::printf("%s: %d of %d tokens equal, %d near ties\n", what.c_str(), equal, kAnswerTokens, near_ties);
}

class GreedyTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { HGA_SKIP_WITHOUT_DEVICE(); }
};

TEST_P(GreedyTest, SmallRandomModels) {
  const TemporaryFolder folder;
  RandomCheckpointOptions options;
  options.hf_class = GetParam();
  if (options.hf_class == std::string("Qwen3MoeForCausalLM")) {
    options.experts = 8;
    options.experts_per_token = 2;
    options.expert_ffn = 48;
  }
  ASSERT_TRUE(WriteRandomCheckpoint(folder.path(), options).ok());
  const auto model = ReadHfModel(folder.path());
  ASSERT_TRUE(model.ok()) << model.status();
  std::vector<uint32_t> prompt;
  for (uint32_t i = 0; i < 40; ++i) prompt.push_back(3 + i * 37 % 200);
  ExpectTheSameTokens((*model)->weights, prompt, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Families, GreedyTest,
                         testing::Values("LlamaForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"),
                         [](const auto& info) { return std::string(info.param); });

// Some minutes: all of SmolLM2 on the emulator.
TEST(RealModelGreedyTest, SmolLm2) {
  HGA_SKIP_WITHOUT_DEVICE();
  const char* folder = std::getenv("HGA_MODEL_DIR");
  if (folder == nullptr) GTEST_SKIP() << "HGA_MODEL_DIR is not set";
  if (!kOnGpu && std::getenv("HGA_SLOW_TESTS") == nullptr) GTEST_SKIP() << "takes minutes: HGA_SLOW_TESTS=1 runs it";
  const auto loaded = LoadModel(std::string(folder) + "/SmolLM2-135M-Instruct.Q4_1.gguf");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const auto prompt = (*loaded)->chat_template->RenderChat({ChatMessage{"user", "Tell me a story about the sea."}});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  ExpectTheSameTokens((*loaded)->weights, *prompt, "SmolLM2-135M");
}

}  // namespace
}  // namespace hga
