// Retrieval samples in natural, non-repeating text, in the manner of RULER, for base-style completion.
//
// A sample is a text ("haystack") in which sentences ("needles") were put between sentences at random places, a blank
// line, and the beginning of a sentence that the needles complete. Small models pass these, but not chat questions.
#ifndef HGA_TESTS_QUALITY_TASKS_TASKS_H_
#define HGA_TESTS_QUALITY_TASKS_TASKS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace hga {

enum class TaskKind {
  kSingleNeedle,      // one key, one value
  kMultiKey,          // four keys with a value each; one is asked
  kRandomKey,         // four keys of eight hex digits; one is asked
  kMultiValue,        // one key with three values; all are asked
  kVariableTracking,  // a variable, and one that copies it, among a third that does not matter
  kCommonWord,        // a word that is named six times among three named once
};

struct TaskOptions {
  TaskKind kind = TaskKind::kSingleNeedle;
  // The prompt has at most this many tokens, and fewer by about a sentence at most.
  size_t tokens = 4096;
  uint64_t seed = 0;
};

struct TaskSample {
  TaskKind kind = TaskKind::kSingleNeedle;
  std::string key;                     // what is asked for
  std::string prompt;                  // haystack with needles, then the question
  size_t question_offset = 0;          // byte of `prompt` at which the question begins
  std::vector<size_t> needle_offsets;  // bytes of `prompt` at which the needles begin, in order of place
  std::vector<std::string> answers;    // the greedy continuation must hold each of them
  size_t max_new_tokens = 0;           // length of the continuation that is scored
};

// Tokens of a text, as the model under test counts them.
using TokenCounter = std::function<size_t(const std::string&)>;

// Every kind, in order of declaration.
const std::vector<TaskKind>& AllTaskKinds();

// "single_needle", "multi_key", ...: the name in tables and JSON.
const char* TaskName(TaskKind kind);

// Deterministic: the same text, options and counter give the same sample, on every machine.
// InvalidArgument when the length has no room for the needles, or the text is shorter than the length.
absl::StatusOr<TaskSample> MakeTaskSample(const std::string& text, const TaskOptions& options,
                                          const TokenCounter& count_tokens);

// Whether the continuation passes: each answer is in it, not as a part of a longer word or number.
bool IsCorrect(const TaskSample& sample, const std::string& continuation);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_TASKS_TASKS_H_
