// Every backend against the reference, on sizes that are no multiples of anything.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <tuple>

#include "absl/strings/match.h"
#include "common/base/temporary_folder.h"
#include "gpu_worker/backend/cuda/testing_device.h"
#include "gpu_worker/backend/sequence_runner.h"
#include "gpu_worker/model/loaded_model.h"
#include "gpu_worker/model/tiny_model.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

// bf16 GEMM rounds weights and activations to 8 bits; GEMV does not.
constexpr float kGemmTolerance = 0.08f;
constexpr float kGemvTolerance = 2e-3f;
constexpr float kBf16WeightsTolerance = 0.01f;

std::unique_ptr<LoadedModel> MakeModel(const TinyModelOptions& options) {
  const TemporaryFolder folder;
  const std::string path = folder.File("tiny.gguf");
  const absl::Status written = WriteTinyGguf(path, options);
  EXPECT_TRUE(written.ok()) << written;
  auto model = LoadModel(path);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);  // the mapping outlives the file
}

std::vector<uint32_t> Tokens(uint32_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint32_t> tokens(count);
  for (uint32_t& token : tokens) token = random() % 260;
  return tokens;
}

void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected, float tolerance,
                 const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double error = 0, size = 0, worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_TRUE(std::isfinite(actual[i])) << what << " at " << i;
    error += std::pow(actual[i] - expected[i], 2);
    size += std::pow(expected[i], 2);
    worst = std::max(worst, std::fabs(double{actual[i]} - expected[i]));
  }
  const double rms = std::sqrt(size / expected.size());
  EXPECT_LE(std::sqrt(error / expected.size()), tolerance * rms) << what;
  EXPECT_LE(worst, 8 * tolerance * rms) << what;
}

struct Shape {
  uint32_t query_heads, kv_heads, head_dim, hidden;
  TensorType type;
};

class ConformanceTest : public testing::TestWithParam<std::tuple<const char*, Shape>> {
 protected:
  void SetUp() override { HGA_SKIP_WITHOUT_DEVICE(); }
  const char* kind() const { return std::get<0>(GetParam()); }
  bool int8() const { return absl::EndsWith(kind(), "_int8"); }
  const char* reference_kind() const { return int8() ? "reference_int8" : "reference"; }
  bool on_device() const { return std::string(kind()).rfind("cpu", 0) != 0; }
  // Each emulated thread costs as much as a loop over many rows elsewhere.
  bool emulated() const { return std::string(kind()).rfind("emulated", 0) == 0; }
  // The cpu backend multiplies few rows by the weights as they are; on the device they are bf16.
  float few_tolerance() const { return kind() == std::string("cpu") ? kGemvTolerance : kBf16WeightsTolerance; }

  std::unique_ptr<LoadedModel> Model() {
    TinyModelOptions options;
    options.query_heads = std::get<1>(GetParam()).query_heads;
    options.kv_heads = std::get<1>(GetParam()).kv_heads;
    options.head_dim = std::get<1>(GetParam()).head_dim;
    options.hidden = std::get<1>(GetParam()).hidden;
    options.ffn = std::get<1>(GetParam()).hidden;
    options.type = std::get<1>(GetParam()).type;
    options.tied = std::get<1>(GetParam()).kv_heads % 2 == 0;
    return MakeModel(options);
  }
};

TEST_P(ConformanceTest, MatchesTheReferenceOnOddSizes) {
  const auto model = Model();
  const std::vector<uint32_t> sizes = emulated() ? std::vector<uint32_t>{1, 17, 65}
                                                 : std::vector<uint32_t>{1, 15, 16, 17, 63, 64, 65};
  for (const uint32_t rows : sizes) {
    SequenceRunner reference(reference_kind(), model->weights), tested(kind(), model->weights);
    const auto tokens = Tokens(rows, rows);
    const float tolerance = rows <= 8 ? few_tolerance() : kGemmTolerance;
    ExpectClose(tested.Step(tokens), reference.Step(tokens), tolerance, "logits of a prompt");
    ExpectClose(tested.queries(), reference.queries(), tolerance + 0.01f, "queries");
    ExpectClose(tested.log_sum_exp(), reference.log_sum_exp(), tolerance + 0.01f, "log-sum-exp");
    ExpectClose(tested.KvRows(), reference.KvRows(), tolerance + 0.01f, "K/V");
    ExpectClose(tested.Step({7}), reference.Step({7}), kGemmTolerance, "logits of the next token");
  }
}

TEST_P(ConformanceTest, DecodeMatchesTheReferenceClosely) {
  const auto model = Model();
  SequenceRunner reference(reference_kind(), model->weights), tested(kind(), model->weights);
  for (uint32_t token : Tokens(emulated() ? 6 : 20, 3)) {
    // K/V are of one type on both sides; between two steps of int8 other weights (bf16) may fall either way.
    ExpectClose(tested.Step({token}), reference.Step({token}), on_device() && int8() ? 0.05f : 0.02f, "logits");
  }
}

TEST_P(ConformanceTest, AnyPartitionOfTheRunsMergesToTheSame) {
  const auto model = Model();
  SequenceRunner whole(kind(), model->weights), parted(kind(), model->weights);
  const auto tokens = Tokens(emulated() ? 66 : 100, 5);
  ExpectClose(parted.Step(tokens, 3), whole.Step(tokens, 1), 0.02f, "logits");
  ExpectClose(parted.log_sum_exp(), whole.log_sum_exp(), 0.02f, "log-sum-exp");
}

TEST_P(ConformanceTest, HiddenRunsAreNotSeen) {
  const auto model = Model();
  SequenceRunner reference(reference_kind(), model->weights), tested(kind(), model->weights),
      open(kind(), model->weights);
  const auto tokens = Tokens(40, 6);
  const auto hidden = tested.Step(tokens, 1, /*hide_run=*/0, /*hide_before_row=*/25);
  ExpectClose(hidden, reference.Step(tokens, 1, 0, 25), kGemmTolerance, "logits");
  const auto all = open.Step(tokens);
  const size_t vocab = model->weights.config.vocab_size;
  EXPECT_NE(std::vector<float>(all.begin() + 20 * vocab, all.begin() + 21 * vocab),
            std::vector<float>(hidden.begin() + 20 * vocab, hidden.begin() + 21 * vocab));
}

TEST_P(ConformanceTest, AResidualIsOneKeyMore) {
  const auto model = Model();
  const auto tokens = Tokens(emulated() ? 66 : 80, 7);
  for (const int parts : {1, 3}) {
    if (emulated() && parts == 1) continue;
    SequenceRunner reference(reference_kind(), model->weights), tested(kind(), model->weights),
        plain(kind(), model->weights);
    reference.AddResidual(1.5f);
    tested.AddResidual(1.5f);
    const auto logits = tested.Step(tokens, parts, /*hide_run=*/1, /*hide_before_row=*/40);
    ExpectClose(logits, reference.Step(tokens, parts, 1, 40), kGemmTolerance, "logits");
    ExpectClose(tested.Step({7}, parts), reference.Step({7}, parts), kGemmTolerance, "logits of the next token");
    EXPECT_NE(logits, plain.Step(tokens, parts, 1, 40));
  }
  // One of no size changes nothing.
  SequenceRunner with(kind(), model->weights), without(kind(), model->weights);
  with.AddResidual(-std::numeric_limits<float>::infinity());
  const auto few = Tokens(20, 7);
  EXPECT_EQ(with.Step(few), without.Step(few));
}

TEST_P(ConformanceTest, SameBitsForAnyNumberOfThreads) {
  const auto model = Model();
  if (kind() == std::string("emulated")) GTEST_SKIP() << "its threads run in one order";
  const auto tokens = Tokens(66, 8);
  std::vector<std::vector<float>> results;
  for (int threads : {1, 2, 3}) {
    SequenceRunner runner(kind(), model->weights, threads);
    runner.AddResidual(0.5f);
    auto logits = runner.Step(tokens);
    const auto more = runner.Step({9});
    logits.insert(logits.end(), more.begin(), more.end());
    results.push_back(logits);
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST_P(ConformanceTest, LaterRowsDoNotChangeEarlierOnes) {
  const auto model = Model();
  for (const char* name : {"reference", kind()}) {
    SequenceRunner one(name, model->weights), other(name, model->weights);
    one.AddResidual(0.5f);
    other.AddResidual(0.5f);
    auto tokens = Tokens(50, 9);
    const auto before = one.Step(tokens);
    tokens[30] ^= 1;
    const auto after = other.Step(tokens);
    const size_t same = 30 * size_t{model->weights.config.vocab_size};
    EXPECT_TRUE(std::equal(before.begin(), before.begin() + same, after.begin())) << name;
    EXPECT_FALSE(std::equal(before.begin() + same, before.end(), after.begin() + same)) << name;
  }
}

#ifdef HGA_TEST_ON_GPU
const char* const kDeviceKinds[] = {"cuda", "cuda_int8"};
#else
const char* const kDeviceKinds[] = {"emulated", "emulated_tight", "emulated_tight_int8"};
#endif

#ifndef HGA_TEST_ON_GPU
const Shape kShapes[] = {
    {4, 4, 8, 32, TensorType::kF32},     {4, 2, 16, 64, TensorType::kQ4_1},   {9, 3, 64, 288, TensorType::kQ4_0},
    {4, 1, 24, 64, TensorType::kF16},    {8, 1, 128, 64, TensorType::kQ8_0},  {2, 2, 128, 256, TensorType::kQ6_K},
    {4, 2, 64, 256, TensorType::kQ5_K},  {2, 1, 128, 256, TensorType::kQ4_K}, {4, 2, 16, 64, TensorType::kQ5_0},
    {2, 2, 32, 64, TensorType::kQ5_1},   {4, 4, 256, 64, TensorType::kBF16},
};
#endif

// Every path of the kernels; weights of other types are made bf16 on the host.
const Shape kDeviceShapes[] = {
    {4, 4, 8, 32, TensorType::kF32},      {9, 3, 64, 288, TensorType::kQ4_0}, {4, 1, 24, 64, TensorType::kF16},
    {8, 1, 128, 64, TensorType::kQ8_0},   {4, 4, 256, 64, TensorType::kBF16},
};

std::string NameOf(const testing::TestParamInfo<ConformanceTest::ParamType>& info) {
  return std::get<0>(info.param) + std::string("_") + std::to_string(info.index);
}

#ifndef HGA_TEST_ON_GPU
INSTANTIATE_TEST_SUITE_P(Cpu, ConformanceTest,
                         testing::Combine(testing::Values("cpu", "cpu_int8"), testing::ValuesIn(kShapes)), NameOf);
#endif
INSTANTIATE_TEST_SUITE_P(Device, ConformanceTest,
                         testing::Combine(testing::ValuesIn(kDeviceKinds), testing::ValuesIn(kDeviceShapes)), NameOf);

TEST(RealModelTest, AnswersAsTheReferenceDoes) {
  const char* folder = std::getenv("HGA_MODEL_DIR");
  if (folder == nullptr) GTEST_SKIP() << "HGA_MODEL_DIR is not set";
  const auto loaded = LoadModel(std::string(folder) + "/SmolLM2-135M-Instruct.Q4_1.gguf");
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const LoadedModel& model = **loaded;
  const auto prompt =
      model.chat_template->RenderChat({ChatMessage{"user", "What is the capital of France? Answer in one word."}});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  std::vector<std::vector<uint32_t>> answers;
  for (const char* kind : {"cpu", "reference"}) {
    SequenceRunner runner(kind, model.weights);
    std::vector<uint32_t> answer, input = *prompt;
    const size_t vocab = model.weights.config.vocab_size;
    for (int i = 0; i < 8; ++i) {
      const auto logits = runner.Step(input);
      const auto last = logits.end() - static_cast<ptrdiff_t>(vocab);
      answer.push_back(static_cast<uint32_t>(std::max_element(last, logits.end()) - last));
      if (answer.back() == model.chat_template->end_of_turn()) break;
      input = {answer.back()};
    }
    answers.push_back(answer);
  }
  EXPECT_EQ(answers[0], answers[1]);
  std::string text;
  for (uint32_t id : answers[0]) text += model.tokenizer->TokenBytes(id);
  EXPECT_NE(text.find("Paris"), std::string::npos) << text;
}

TEST(BackendTest, BadRowsAndUnknownKindsAreRefused) {
  const auto model = MakeModel({});
  const KvGeometry g = model->weights.config.Geometry();
  EXPECT_EQ(CreateBackend("gpu", model->weights, g, {}).status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* kind : {"reference", "cpu"}) {
    auto backend = *CreateBackend(kind, model->weights, g, {});
    EXPECT_EQ(backend->Begin({}).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(backend->Begin({BatchRow{1000000, 0, false}}).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(backend->Begin(std::vector<BatchRow>(257)).code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace hga
