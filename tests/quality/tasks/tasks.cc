#include "tests/quality/tasks/tasks.h"

#include <algorithm>
#include <cctype>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace hga {
namespace {

const char* const kWords[] = {"anchor", "basket", "candle", "dragon", "engine",   "feather", "garden", "hammer",
                              "island", "jacket", "kettle", "lantern", "marble",  "needle",  "orchid", "pencil",
                              "quarry", "ribbon", "saddle", "temple", "umbrella", "violin",  "walnut", "zipper"};
constexpr size_t kWordCount = sizeof(kWords) / sizeof(kWords[0]);

// std::uniform_int_distribution differs between standard libraries; the engine does not.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  size_t Below(size_t limit) { return engine_() % limit; }

  template <typename T>
  void Shuffle(std::vector<T>* values) {
    for (size_t i = values->size(); i > 1; --i) std::swap((*values)[i - 1], (*values)[Below(i)]);
  }

  std::string Number() { return std::to_string(10000 + Below(90000)); }

  std::string HexKey() {
    std::string key;
    for (int i = 0; i < 8; ++i) key += "0123456789abcdef"[Below(16)];
    return key;
  }

  std::vector<std::string> Words(size_t count) {
    std::vector<std::string> words(kWords, kWords + kWordCount);
    Shuffle(&words);
    words.resize(count);
    return words;
  }

  // `count` different values of make().
  template <typename Make>
  std::vector<std::string> Distinct(size_t count, Make make) {
    std::vector<std::string> values;
    while (values.size() < count) {
      std::string value = make();
      if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(std::move(value));
    }
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

struct Question {
  std::string key;
  std::vector<std::string> needles;  // in the order in which they are placed
  std::string text;
  std::vector<std::string> answers;
  size_t max_new_tokens = 10;
};

Question AskKey(const std::vector<std::string>& keys, Random* random) {
  const std::vector<std::string> values = random->Distinct(keys.size(), [random] { return random->Number(); });
  Question question;
  for (size_t i = 0; i < keys.size(); ++i) {
    question.needles.push_back(absl::StrCat("The special magic number for ", keys[i], " is ", values[i], "."));
  }
  random->Shuffle(&question.needles);
  question.key = keys[0];
  question.text = absl::StrCat("The special magic number for ", keys[0], " is");
  question.answers = {values[0]};
  return question;
}

Question AskValues(Random* random) {
  Question question;
  question.key = random->Words(1)[0];
  question.answers = random->Distinct(3, [random] { return random->Number(); });
  for (const std::string& value : question.answers) {
    question.needles.push_back(absl::StrCat("One of the special magic numbers for ", question.key, " is ", value, "."));
  }
  question.text = absl::StrCat("The three special magic numbers for ", question.key, " are");
  question.max_new_tokens = 24;
  return question;
}

// The needles keep their order: a variable is set before it is copied.
Question AskVariable(Random* random) {
  const std::vector<std::string> names = random->Words(3);
  const std::vector<std::string> values = random->Distinct(2, [random] { return random->Number(); });
  Question question;
  question.key = names[1];
  question.needles = {absl::StrCat("VAR ", names[0], " = ", values[0], "."),
                      absl::StrCat("VAR ", names[1], " = ", names[0], "."),
                      absl::StrCat("VAR ", names[2], " = ", values[1], ".")};
  question.text = absl::StrCat("VAR ", names[1], " = ", names[0], " =");
  question.answers = {values[0]};
  return question;
}

Question AskCommonWord(Random* random) {
  std::vector<std::string> words = random->Words(4);
  Question question;
  question.key = words[0];
  question.answers = {words[0]};
  words.insert(words.end(), 5, question.key);
  random->Shuffle(&words);
  for (const std::string& word : words) question.needles.push_back(absl::StrCat("The secret word is ", word, "."));
  question.text = "The secret word is";
  return question;
}

Question MakeQuestion(TaskKind kind, Random* random) {
  switch (kind) {
    case TaskKind::kSingleNeedle:
      return AskKey(random->Words(1), random);
    case TaskKind::kMultiKey:
      return AskKey(random->Words(4), random);
    case TaskKind::kRandomKey:
      return AskKey(random->Distinct(4, [random] { return random->HexKey(); }), random);
    case TaskKind::kMultiValue:
      return AskValues(random);
    case TaskKind::kVariableTracking:
      return AskVariable(random);
    case TaskKind::kCommonWord:
      break;
  }
  return AskCommonWord(random);
}

bool IsSpace(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }
bool IsWordChar(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

// Sentences end with a full stop before white space; each keeps the line breaks inside it.
std::vector<std::string> SplitSentences(const std::string& text) {
  std::vector<std::string> sentences;
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (i + 1 < text.size() && !(text[i] == '.' && IsSpace(text[i + 1]))) continue;
    while (begin <= i && IsSpace(text[begin])) ++begin;
    if (begin <= i) sentences.push_back(text.substr(begin, i + 1 - begin));
    begin = i + 1;
  }
  return sentences;
}

// Joins sentences and needles; needles[i] comes before sentence places[i] (ascending).
void Assemble(const std::vector<std::string>& sentences, size_t count, const Question& question,
              const std::vector<size_t>& places, TaskSample* sample) {
  sample->prompt.clear();
  sample->needle_offsets.clear();
  size_t next = 0;
  for (size_t i = 0; i < count; ++i) {
    for (; next < places.size() && places[next] == i; ++next) {
      sample->needle_offsets.push_back(sample->prompt.size());
      absl::StrAppend(&sample->prompt, question.needles[next], " ");
    }
    absl::StrAppend(&sample->prompt, sentences[i], i + 1 < count ? " " : "\n\n");
  }
  sample->question_offset = sample->prompt.size();
  sample->prompt += question.text;
}

// Different places in [1, count), ascending: no needle is first or last.
std::vector<size_t> ChoosePlaces(size_t needles, size_t count, Random random) {
  std::vector<size_t> places;
  for (size_t i = 1; i < count; ++i) places.push_back(i);
  random.Shuffle(&places);
  places.resize(needles);
  std::sort(places.begin(), places.end());
  return places;
}

}  // namespace

const std::vector<TaskKind>& AllTaskKinds() {
  static const auto* const kinds = new std::vector<TaskKind>{
      TaskKind::kSingleNeedle, TaskKind::kMultiKey,         TaskKind::kRandomKey,
      TaskKind::kMultiValue,   TaskKind::kVariableTracking, TaskKind::kCommonWord};
  return *kinds;
}

const char* TaskName(TaskKind kind) {
  switch (kind) {
    case TaskKind::kSingleNeedle:
      return "single_needle";
    case TaskKind::kMultiKey:
      return "multi_key";
    case TaskKind::kRandomKey:
      return "random_key";
    case TaskKind::kMultiValue:
      return "multi_value";
    case TaskKind::kVariableTracking:
      return "variable_tracking";
    case TaskKind::kCommonWord:
      return "common_word";
  }
  return "unknown";
}

absl::StatusOr<TaskSample> MakeTaskSample(const std::string& text, const TaskOptions& options,
                                          const TokenCounter& count_tokens) {
  Random random(options.seed * 64 + static_cast<uint64_t>(options.kind));
  Question question = MakeQuestion(options.kind, &random);
  const std::vector<std::string> sentences = SplitSentences(text);
  TaskSample sample;
  sample.kind = options.kind;
  const size_t fewest = question.needles.size() + 1;
  const auto tokens_with = [&](size_t count) {
    Assemble(sentences, count, question, ChoosePlaces(question.needles.size(), count, random), &sample);
    return count_tokens(sample.prompt);
  };
  if (sentences.size() < fewest || tokens_with(fewest) > options.tokens) {
    return absl::InvalidArgumentError(absl::StrCat("a ", TaskName(options.kind), " sample needs ", fewest,
                                                   " sentences of text within its length of ", options.tokens,
                                                   " tokens; give a longer length or another text"));
  }
  if (tokens_with(sentences.size()) < options.tokens) {
    return absl::InvalidArgumentError(absl::StrCat("the text is shorter than the length of ", options.tokens,
                                                   " tokens; give a shorter length or a longer text"));
  }
  // The most sentences that fit: tokens_with(low) <= tokens holds throughout.
  size_t low = fewest;
  size_t high = sentences.size();
  while (low < high) {
    const size_t middle = low + (high - low + 1) / 2;
    if (tokens_with(middle) <= options.tokens) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  tokens_with(low);
  sample.key = std::move(question.key);
  sample.answers = std::move(question.answers);
  sample.max_new_tokens = question.max_new_tokens;
  return sample;
}

bool IsCorrect(const TaskSample& sample, const std::string& continuation) {
  return std::all_of(sample.answers.begin(), sample.answers.end(), [&](const std::string& answer) {
    for (size_t at = continuation.find(answer); at != std::string::npos; at = continuation.find(answer, at + 1)) {
      const size_t end = at + answer.size();
      if ((at == 0 || !IsWordChar(continuation[at - 1])) &&
          (end == continuation.size() || !IsWordChar(continuation[end]))) {
        return true;
      }
    }
    return false;
  });
}

}  // namespace hga
