// Measures what routing costs in quality: README.md.
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "common/base/arguments.h"
#include "tests/quality/bench.h"

namespace hga {
namespace {

void AddFlags(CLI::App* app, QualityOptions* o) {
  app->add_option("--model", o->model, "GGUF file or folder");
  app->add_option("--corpus", o->corpus, "corpus.json with the documents");
  app->add_option("--text", o->texts, "Text files, besides");
  app->add_option("--split", o->split, "Only documents of this split: dev or test; empty: all");
  app->add_option("--documents", o->documents, "Documents at most; 0: all");
  app->add_option("--length", o->lengths, "Tokens of each document")->delimiter(',');
  app->add_option("--configs", o->configs, "METHOD/KEYS/PATH, with commas between them; empty: those of the README");
  app->add_option("--out", o->out, "Results file, one JSON object per line; measured again is only what it lacks");
  app->add_option("--kv_dtype", o->kv_dtype, "What K/V is rounded to: bf16, fp8_e4m3 or int8");
  app->add_option("--threads", o->threads, "0: all cores");
  app->add_option("--together", o->together, "Configurations side by side; each holds the document's K/V")
      ->check(CLI::Range(1, 64));
  app->add_option("--start", o->start, "Loss is taken from this position on");
  app->add_option("--sinks", o->shape.sink_tokens, "First keys, attended always");
  app->add_option("--decode_window", o->shape.decode_window, "Newest keys, attended always in the decode path");
  app->add_option("--prefill_window", o->shape.prefill_window, "The same in the prefill path");
  app->add_option("--prefill_block", o->shape.prefill_block, "Queries that share what they select in the prefill path")
      ->check(CLI::IsMember({16, 32, 64}));
  app->add_option("--samples", o->samples, "Samples of each retrieval task");
  app->add_option("--seed", o->seed, "Of the retrieval tasks");
  app->add_option("--method", o->method, "Method that the report's numbers are about");
  app->add_option("--json", o->json, "The report's numbers as a flat JSON object");
  app->add_option("--svg_dir", o->svg_dir, "Folder for the report's plots");
  app->add_option("--commit", o->commit, "Told in the JSON");
  app->add_option("--command", o->command, "Told in the JSON");
}

int Main(int argc, char** argv) {
  QualityOptions options;
  CLI::App app("quality: loss, attention mass and retrieval of routed attention beside dense attention");
  app.option_defaults()->always_capture_default();
  app.require_subcommand(1);
  absl::Status (*run)(const QualityOptions&) = nullptr;
  const auto add = [&](const char* name, const char* what, absl::Status (*command)(const QualityOptions&)) {
    CLI::App* sub = app.add_subcommand(name, what);
    AddFlags(sub, &options);
    sub->callback([&run, command] { run = command; });
  };
  add("loss", "Loss and KL of documents, dense and in each configuration", RunLoss);
  add("mass", "Attention mass kept and error of the attention's output, per layer and head", RunMass);
  add("retrieval", "Answers to questions about a long text, dense and in each configuration", RunRetrieval);
  add("report", "Table and JSON of a results file", RunReport);
  try {
    app.parse(LastArgumentFirst(argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::cerr << "quality: " << error.what() << "\n";
    return 2;
  }
  const absl::Status status = run(options);
  if (status.ok()) return 0;
  std::cerr << "quality: " << status.ToString() << "\n";
  return 1;
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) { return hga::Main(argc, argv); }
