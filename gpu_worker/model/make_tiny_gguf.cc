// Writes a small random model: make_tiny_gguf --out=FILE [--seed=N] [--layers=N] ...
#include <cstdio>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "gpu_worker/model/tiny_model.h"

ABSL_FLAG(std::string, out, "", "file to write");
ABSL_FLAG(uint32_t, seed, 1, "of the weights");
ABSL_FLAG(uint32_t, layers, 2, "layers");
ABSL_FLAG(uint32_t, context, 2048, "trained context in tokens");
ABSL_FLAG(uint32_t, hidden, 64, "width of the model, a multiple of 32");
ABSL_FLAG(uint32_t, ffn, 128, "width of the MLP, a multiple of 32");
ABSL_FLAG(uint32_t, query_heads, 4, "query heads");
ABSL_FLAG(uint32_t, kv_heads, 2, "K/V heads, a divisor of the query heads");
ABSL_FLAG(uint32_t, head_dim, 16, "elements of a head");

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  if (absl::GetFlag(FLAGS_out).empty()) {
    std::fprintf(stderr, "make_tiny_gguf: --out=FILE is missing\n");
    return 1;
  }
  hga::TinyModelOptions options;
  options.seed = absl::GetFlag(FLAGS_seed);
  options.layers = absl::GetFlag(FLAGS_layers);
  options.context_tokens = absl::GetFlag(FLAGS_context);
  options.hidden = absl::GetFlag(FLAGS_hidden);
  options.ffn = absl::GetFlag(FLAGS_ffn);
  options.query_heads = absl::GetFlag(FLAGS_query_heads);
  options.kv_heads = absl::GetFlag(FLAGS_kv_heads);
  options.head_dim = absl::GetFlag(FLAGS_head_dim);
  const absl::Status status = hga::WriteTinyGguf(absl::GetFlag(FLAGS_out), options);
  if (!status.ok()) std::fprintf(stderr, "make_tiny_gguf: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
