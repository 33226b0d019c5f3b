// Writes a small random model: make_tiny_gguf --out=FILE [--seed=N]
#include <cstdio>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "gpu_worker/model/tiny_model.h"

ABSL_FLAG(std::string, out, "", "file to write");
ABSL_FLAG(uint32_t, seed, 1, "of the weights");
ABSL_FLAG(uint32_t, layers, 2, "layers");
ABSL_FLAG(uint32_t, context, 2048, "trained context in tokens");

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  hga::TinyModelOptions options;
  options.seed = absl::GetFlag(FLAGS_seed);
  options.layers = absl::GetFlag(FLAGS_layers);
  options.context_tokens = absl::GetFlag(FLAGS_context);
  const absl::Status status = hga::WriteTinyGguf(absl::GetFlag(FLAGS_out), options);
  if (!status.ok()) std::fprintf(stderr, "make_tiny_gguf: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
