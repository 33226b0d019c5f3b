// llama.cpp's speed against context, for benchmark `cpu`: one dense prefill in batches, each timed, and a few tokens
// decoded at some depths on the way. Built by cpu.py against llama.cpp's own build, not by Bazel.
// usage: llama_curve MODEL THREADS FLASH(0|1) BATCH DECODE_TOKENS DEPTH... (ascending)
// Prints one line of JSON per depth: seconds of the whole prefill up to there, tokens/s of decoding there.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

namespace {

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Any ids will do: a dense model's speed does not depend on them.
llama_token TokenAt(int position) { return 100 + position * 7919 % 30000; }

// Seconds to compute tokens [first, first + count) in one call.
double Decode(llama_context* context, int first, int count) {
  std::vector<llama_token> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(TokenAt(first + i));
  const double start = Now();
  if (llama_decode(context, llama_batch_get_one(tokens.data(), count)) != 0) {
    std::fprintf(stderr, "llama_curve: llama_decode failed at %d\n", first);
    std::exit(1);
  }
  llama_synchronize(context);
  return Now() - start;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 7) return 2;
  const int threads = std::atoi(argv[2]), batch = std::atoi(argv[4]), decode_tokens = std::atoi(argv[5]);
  const int deepest = std::atoi(argv[argc - 1]);
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  llama_backend_init();
  llama_model_params model_params = llama_model_default_params();
  model_params.n_gpu_layers = 0;
  llama_model* model = llama_model_load_from_file(argv[1], model_params);
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(deepest + decode_tokens + batch);
  params.n_batch = params.n_ubatch = batch;
  params.n_threads = params.n_threads_batch = threads;
  params.flash_attn_type = std::atoi(argv[3]) != 0 ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
  llama_context* context = model == nullptr ? nullptr : llama_init_from_model(model, params);
  if (context == nullptr) {
    std::fprintf(stderr, "llama_curve: cannot load %s\n", argv[1]);
    return 1;
  }
  llama_memory_t memory = llama_get_memory(context);
  Decode(context, 0, batch);  // warms up, as the other side is
  llama_memory_clear(memory, true);

  double prefill_s = 0;
  int position = 0;
  for (int i = 6; i < argc; ++i) {
    const int depth = std::atoi(argv[i]);
    for (; position < depth; position += batch) {
      prefill_s += Decode(context, position, std::min(batch, depth - position));
    }
    position = depth;
    double decode_s = 0;
    Decode(context, position, 1);
    for (int t = 1; t <= decode_tokens; ++t) decode_s += Decode(context, position + t, 1);
    llama_memory_seq_rm(memory, 0, position, -1);
    std::printf("{\"depth\": %d, \"prefill_s\": %.4f, \"decode_tps\": %.4f}\n", depth, prefill_s,
                decode_tokens / decode_s);
    std::fflush(stdout);
  }
  llama_free(context);
  llama_model_free(model);
  return 0;
}
