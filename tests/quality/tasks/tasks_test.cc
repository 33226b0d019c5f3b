#include "tests/quality/tasks/tasks.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <string>

#include "gtest/gtest.h"

namespace hga {
namespace {

// Words, as a stand-in for tokens.
size_t CountWords(const std::string& text) {
  size_t words = 0;
  bool inside = false;
  for (char c : text) {
    const bool space = std::isspace(static_cast<unsigned char>(c)) != 0;
    words += !space && !inside;
    inside = !space;
  }
  return words;
}

std::string Text(int sentences) {
  std::string text;
  for (int i = 0; i < sentences; ++i) text += "Sentence " + std::to_string(i) + " says\nnothing much.\n";
  return text;
}

TaskSample Make(TaskKind kind, uint64_t seed, size_t tokens = 300) {
  TaskOptions options;
  options.kind = kind;
  options.seed = seed;
  options.tokens = tokens;
  auto sample = MakeTaskSample(Text(400), options, CountWords);
  EXPECT_TRUE(sample.ok()) << sample.status();
  return sample.ok() ? *sample : TaskSample();
}

class TasksTest : public testing::TestWithParam<TaskKind> {};

TEST_P(TasksTest, HitsTheLengthAndNeverExceedsIt) {
  for (size_t tokens : {200, 301, 777}) {
    const size_t count = CountWords(Make(GetParam(), 3, tokens).prompt);
    EXPECT_LE(count, tokens);
    EXPECT_GT(count + 5, tokens);  // a sentence has 5 words
  }
}

TEST_P(TasksTest, SameSeedSameSampleAndOtherSeedAnother) {
  EXPECT_EQ(Make(GetParam(), 7).prompt, Make(GetParam(), 7).prompt);
  EXPECT_NE(Make(GetParam(), 7).prompt, Make(GetParam(), 8).prompt);
}

TEST_P(TasksTest, OffsetsPointAtNeedlesAndQuestion) {
  std::set<size_t> last_places;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const TaskSample sample = Make(GetParam(), seed);
    ASSERT_EQ(sample.prompt.compare(sample.question_offset - 2, 2, "\n\n"), 0);
    EXPECT_NE(sample.prompt.find(sample.key, 0), std::string::npos);
    ASSERT_TRUE(std::is_sorted(sample.needle_offsets.begin(), sample.needle_offsets.end()));
    for (size_t offset : sample.needle_offsets) {
      ASSERT_LT(offset, sample.question_offset);
      EXPECT_EQ(sample.prompt[offset - 1], ' ');
      EXPECT_NE(sample.prompt.compare(offset, 8, "Sentence"), 0);
    }
    for (const std::string& answer : sample.answers) {
      EXPECT_LT(sample.prompt.find(answer), sample.question_offset) << answer;
    }
    EXPECT_GT(sample.max_new_tokens, 0u);
    last_places.insert(sample.needle_offsets.back());
  }
  EXPECT_GT(last_places.size(), 4u);
}

TEST_P(TasksTest, QuestionDoesNotGiveTheAnswerAway) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const TaskSample sample = Make(GetParam(), seed);
    const std::string question = sample.prompt.substr(sample.question_offset);
    for (const std::string& answer : sample.answers) EXPECT_EQ(question.find(answer), std::string::npos);
  }
}

TEST_P(TasksTest, RefusesALengthWithoutRoomAndATextTooShort) {
  TaskOptions options;
  options.kind = GetParam();
  options.tokens = 10;
  EXPECT_EQ(MakeTaskSample(Text(400), options, CountWords).status().code(), absl::StatusCode::kInvalidArgument);
  options.tokens = 4096;
  EXPECT_EQ(MakeTaskSample(Text(40), options, CountWords).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeTaskSample("", options, CountWords).status().code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(AllKinds, TasksTest, testing::ValuesIn(AllTaskKinds()),
                         [](const auto& info) { return std::string(TaskName(info.param)); });

TEST(IsCorrectTest, EveryAnswerWholeAndInAnyOrder) {
  TaskSample sample;
  sample.answers = {"12345", "678"};
  EXPECT_TRUE(IsCorrect(sample, " 678, and 12345."));
  EXPECT_FALSE(IsCorrect(sample, " 12345."));
  EXPECT_FALSE(IsCorrect(sample, " 123456 and 678"));
  EXPECT_FALSE(IsCorrect(sample, " 12345 and 9678"));
  EXPECT_TRUE(IsCorrect(sample, "9678 678 12345"));
  EXPECT_FALSE(IsCorrect(sample, ""));
}

}  // namespace
}  // namespace hga
