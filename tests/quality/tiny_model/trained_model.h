// The trained tiny model that tests use where attention must look like a real model's. README.md says what it can do.
#ifndef HGA_TESTS_QUALITY_TINY_MODEL_TRAINED_MODEL_H_
#define HGA_TESTS_QUALITY_TINY_MODEL_TRAINED_MODEL_H_

namespace hga {

// Relative to a test's runfiles, where Bazel starts it.
constexpr char kTrainedModelPath[] = "tests/quality/tiny_model/tiny_qwen3.gguf";

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_TINY_MODEL_TRAINED_MODEL_H_
