#include "tests/quality/bench.h"

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status.h"
#include "common/kv/ids.h"
#include "gpu_worker/backend/rounded_kv.h"
#include "gpu_worker/engine/channel_energies.h"

namespace hga {

absl::StatusOr<Bench> OpenBench(const QualityOptions& options) {
  Bench bench;
  HGA_ASSIGN_OR_RETURN(bench.model, LoadModel(options.model));
  HGA_ASSIGN_OR_RETURN(const KvDtype kv_dtype, ParseKvDtype(options.kv_dtype));
  bench.geometry = bench.model->weights.config.Geometry();
  if (kv_dtype == KvDtype::kInt8) bench.geometry.dtype = kv_dtype;  // as a worker on a CPU holds it
  BackendOptions backend;
  backend.threads = options.threads;
  HGA_ASSIGN_OR_RETURN(bench.backend, CreateBackend("cpu", bench.model->weights, bench.geometry, backend));
  bench.backend = RoundKv(std::move(bench.backend), bench.geometry, kv_dtype);
  bench.model->fingerprint = FingerprintWith(bench.model->fingerprint, kv_dtype);
  HGA_ASSIGN_OR_RETURN(bench.channel_energies,
                       MeasureChannelEnergies(*bench.model, bench.geometry, bench.backend.get()));
  HGA_ASSIGN_OR_RETURN(bench.results, Results::Open(options.out));
  return bench;
}

std::string Bench::KeyPrefix(const QualityOptions& options) const {
  const KeyBudget& s = options.shape;
  return absl::StrCat("v", kMeasureVersion, "|", model->fingerprint.ToHex(), "|", s.sink_tokens, "+", s.decode_window,
                      "/", s.prefill_window, "*", s.prefill_block,
                      "|");
}

absl::StatusOr<std::vector<TokenDocument>> LoadDocuments(const QualityOptions& options, const Tokenizer& tokenizer,
                                                         uint32_t length) {
  std::vector<Document> documents;
  if (!options.corpus.empty()) {
    HGA_ASSIGN_OR_RETURN(documents, ReadCorpus(options.corpus, options.split));
  }
  for (const std::string& path : options.texts) documents.push_back(SingleDocument(path));
  std::vector<TokenDocument> loaded;
  for (const Document& document : documents) {
    if (options.documents > 0 && loaded.size() == options.documents) break;
    HGA_ASSIGN_OR_RETURN(const std::string text, ReadText(document.path));
    HGA_ASSIGN_OR_RETURN(std::vector<uint32_t> tokens, tokenizer.Encode(text, false));
    if (tokenizer.add_bos()) tokens.insert(tokens.begin(), tokenizer.bos());
    if (tokens.size() < length) continue;
    tokens.resize(length);
    const absl::string_view bytes(reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(uint32_t));
    loaded.push_back({document, std::move(tokens), HashBytes(bytes).ToHex().substr(0, 12)});
  }
  if (loaded.empty()) {
    return absl::NotFoundError(absl::StrCat("no document has ", length, " tokens; name some by --corpus or --text"));
  }
  return loaded;
}

Progress::~Progress() {
  Print();
  std::fprintf(stderr, "\n");
}

void Progress::Add(double units) {
  done_ += units;
  const auto now = std::chrono::steady_clock::now();
  if (now - printed_ < std::chrono::seconds(5)) return;
  printed_ = now;
  Print();
}

void Progress::Print() {
  const double spent = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  const double left = done_ > 0 ? spent * (total_ - done_) / done_ : 0;
  std::fprintf(stderr, "\r%s: %5.1f %%, %.0f s, %.0f s left   ", what_.c_str(),
               total_ > 0 ? 100 * done_ / total_ : 100.0, spent, left);
}

}  // namespace hga
