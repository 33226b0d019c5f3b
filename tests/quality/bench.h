// What all measurements share: options, the model, its backend, the results file, progress.
#ifndef HGA_TESTS_QUALITY_BENCH_H_
#define HGA_TESTS_QUALITY_BENCH_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/model/loaded_model.h"
#include "tests/quality/configuration.h"
#include "tests/quality/documents.h"
#include "tests/quality/results.h"

namespace hga {

struct QualityOptions {
  std::string model;
  std::string corpus;              // corpus.json
  std::vector<std::string> texts;  // files, beside or instead of the corpus
  std::string split;               // dev, test or empty: all
  uint32_t documents = 0;          // at most; 0: all
  std::vector<uint32_t> lengths = {8192};
  std::string configs;
  std::string out = "quality.jsonl";
  std::string method = "dealt";   // the product's default, whose numbers the report is about
  std::string json, svg_dir;       // of the report
  std::string commit, command;
  std::string kv_dtype = "bf16";   // what K/V is rounded to
  int threads = 0;                 // 0: all cores
  uint32_t together = 8;           // configurations side by side: each holds the document's K/V
  uint32_t start = 512;
  uint32_t samples = 20;           // of each retrieval task
  uint32_t seed = 1;
  KeyBudget shape;                 // sinks and windows
};

struct Bench {
  std::unique_ptr<LoadedModel> model;
  std::unique_ptr<Backend> backend;
  KvGeometry geometry;
  std::string channel_energies;  // for Configuration::budget
  Results results;

  // Leads every key: model, code version, sinks and windows.
  std::string KeyPrefix(const QualityOptions& options) const;
};

absl::StatusOr<Bench> OpenBench(const QualityOptions& options);

// The documents of the options that have `length` tokens, cut to that.
struct TokenDocument {
  Document document;
  std::vector<uint32_t> tokens;
  std::string hash;  // of the tokens
};
absl::StatusOr<std::vector<TokenDocument>> LoadDocuments(const QualityOptions& options, const Tokenizer& tokenizer,
                                                         uint32_t length);

// Told on stderr, every few seconds: share that is done, time that is left.
class Progress {
 public:
  Progress(std::string what, double total) : what_(std::move(what)), total_(total) {}
  ~Progress();
  void Add(double units);
  // Takes units off the total that need no work.
  void Skip(double units) { total_ -= units; }

 private:
  void Print();

  const std::string what_;
  double total_;
  double done_ = 0;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point printed_ = begin_;
};

// The commands. Each goes on where an earlier run with the same --out stopped.
absl::Status RunLoss(const QualityOptions& options);
absl::Status RunMass(const QualityOptions& options);
absl::Status RunRetrieval(const QualityOptions& options);
absl::Status RunReport(const QualityOptions& options);

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_BENCH_H_
