// gpu_worker --trace: what the file holds after real steps, and however the worker ends.
#include <signal.h>
#include <sys/stat.h>

#include <map>
#include <set>

#include "common/base/temporary_folder.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/requests.h"
#include "tests/support/stack.h"

namespace hga {
namespace {

constexpr uint32_t kLayers = 2;  // of the tiny model
constexpr uint32_t kPromptTokens = 700, kAnswerTokens = 5;
constexpr double kDigit = 0.0015;  // microseconds; times have three digits

struct Span {
  std::string name;
  double begin = 0, end = 0;
  int layer = -1;
  uint32_t rows = 0, position = 0;
};

std::vector<Span> SpansOf(const std::string& text) {
  std::vector<Span> spans;
  for (const auto& event : nlohmann::json::parse(text)) {
    if (event["ph"] != "X") continue;
    Span span;
    span.name = event["name"];
    span.begin = event["ts"];
    span.end = span.begin + event["dur"].get<double>();
    const auto args = event.value("args", nlohmann::json::object());
    span.layer = args.value("layer", -1);
    span.rows = args.value("rows", 0u);
    span.position = args.value("position", 0u);
    spans.push_back(span);
  }
  return spans;
}

bool IsStep(const Span& span) { return span.name == "decode" || span.name == "prefill"; }
bool Within(const Span& inner, const Span& outer) {
  return inner.begin >= outer.begin - kDigit && inner.end <= outer.end + kDigit;
}

class TraceTest : public testing::Test {
 protected:
  // Runs a prompt and an answer with the trace on.
  void Start(std::vector<std::string> more_flags = {}) {
    StackOptions options;
    options.worker_flags = std::move(more_flags);
    options.worker_flags.push_back("--trace=" + folder_.File("trace.json"));
    stack_ = std::make_unique<Stack>(options);
    ASSERT_EQ(stack_->Start(), absl::OkStatus());
    const Answer answer = stack_->Generate(Routed(TokenRequest(kPromptTokens, 1, kAnswerTokens), 0.05f));
    ASSERT_EQ(answer.status, absl::OkStatus());
    ASSERT_EQ(answer.tokens.size(), kAnswerTokens);
  }
  void Terminate() {
    stack_->worker.Signal(SIGTERM);
    ASSERT_EQ(stack_->worker.Wait().value(), 0) << stack_->log("gpu_worker");
  }
  std::string Text() const { return folder_.Read("trace.json"); }

  TemporaryFolder folder_;
  std::unique_ptr<Stack> stack_;
};

TEST_F(TraceTest, EveryLayerOfEveryStepHasAllItsStages) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_NO_FATAL_FAILURE(Terminate());
  const std::vector<Span> spans = SpansOf(Text());
  const std::set<std::string> of_a_layer = {"layer",          "pre_attention", "window_attention", "post_queries",
                                            "wait_selection", "fetch",         "count_keys",       "routed_attention",
                                            "post_attention"};
  const std::set<std::string> of_a_step = {"lay_out", "embedding", "layers", "report", "logits", "finish"};
  uint32_t prefilled = 0, decoded = 0, sampled = 0;
  for (const Span& step : spans) {
    if (!IsStep(step)) continue;
    (step.name == "decode" ? decoded : prefilled) += step.rows;
    std::map<int, std::set<std::string>> layers;
    std::set<std::string> parts;
    for (const Span& span : spans) {
      if (!Within(span, step) || IsStep(span)) continue;
      if (span.layer >= 0) {
        EXPECT_TRUE(layers[span.layer].insert(span.name).second) << span.name << " twice in layer " << span.layer;
      } else {
        parts.insert(span.name);
      }
    }
    ASSERT_EQ(layers.size(), kLayers);
    for (const auto& [layer, stages] : layers) EXPECT_EQ(stages, of_a_layer) << layer;
    for (const std::string& part : of_a_step) EXPECT_EQ(parts.count(part), 1u) << part;
    sampled += parts.count("sample");
  }
  EXPECT_EQ(prefilled, kPromptTokens);
  EXPECT_EQ(decoded, kAnswerTokens - 1);  // the first token comes out of the prefill
  EXPECT_EQ(sampled, kAnswerTokens);
}

TEST_F(TraceTest, SpansLieInTheirStepOrBetweenSteps) {
  ASSERT_NO_FATAL_FAILURE(Start());
  ASSERT_NO_FATAL_FAILURE(Terminate());
  const std::vector<Span> spans = SpansOf(Text());
  const std::set<std::string> between = {"take_work", "pick_step", "trace"};
  uint32_t position = 0;
  for (const Span& span : spans) {
    size_t steps = 0;
    for (const Span& step : spans) steps += IsStep(step) && Within(span, step);
    EXPECT_EQ(steps, between.count(span.name) == 0 ? 1u : 0u) << span.name;
    if (!IsStep(span)) continue;
    EXPECT_EQ(span.position, position);
    position += span.rows;
  }
}

TEST_F(TraceTest, IsItsOwnersOnlyAndWholeAfterAKill) {
  ASSERT_NO_FATAL_FAILURE(Start());
  struct stat info;
  ASSERT_EQ(::stat(folder_.File("trace.json").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  stack_->worker.Signal(SIGKILL);
  ASSERT_EQ(stack_->worker.Wait().value(), 137);
  const std::vector<Span> spans = SpansOf(Text() + "]");
  size_t steps = 0;
  for (const Span& span : spans) steps += IsStep(span);
  EXPECT_GE(steps, kAnswerTokens);
}

TEST_F(TraceTest, EndsAtItsBoundAndServingGoesOn) {
  ASSERT_NO_FATAL_FAILURE(Start({"--trace_bytes=64KiB"}));
  ASSERT_EQ(stack_->Generate(TokenRequest(50, 2, 100)).status, absl::OkStatus());
  EXPECT_NE(stack_->log("gpu_worker").find("the trace is full"), std::string::npos);
  EXPECT_LE(Text().size(), size_t{64} << 10);
  EXPECT_GT(SpansOf(Text()).size(), 100u);  // closed already
  ASSERT_NO_FATAL_FAILURE(Terminate());
}

}  // namespace
}  // namespace hga
