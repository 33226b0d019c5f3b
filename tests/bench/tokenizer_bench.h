// Speed of the tokenizer beside PyPI's tokenizers, part of benchmark `models`.
#ifndef HGA_TESTS_BENCH_TOKENIZER_BENCH_H_
#define HGA_TESTS_BENCH_TOKENIZER_BENCH_H_

#include <string>

#include "absl/status/status.h"
#include "tests/bench/report.h"

namespace hga {

// Encodes the same texts with the vocabulary of a GGUF file, here and in tokenizer_reference.py, one thread each, in
// turns; the ids must be equal. Without that script's PyPI packages the comparison is left out, and said so.
// `scratch`: a folder for the texts.
absl::Status BenchTokenizer(const std::string& gguf, const std::string& scratch, int repetitions, Report* report);

}  // namespace hga

#endif  // HGA_TESTS_BENCH_TOKENIZER_BENCH_H_
