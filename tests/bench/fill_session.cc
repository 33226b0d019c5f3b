// Writes a long session into a running kv_store without computing it, for measuring decode at depths whose prefill
// takes too long: fill_session --store ADDRESS --model FILE --source SESSION --session NAME --tokens N
//
// K and V are those of the source session, over and over, the keys turned (RoPE) to where they are put; so each layer's
// keys and values have the distribution that the model gives them, though no token sees what stands before it. Token
// ids are drawn from the source's. Summaries are made as the worker makes them, everything goes through the store's
// ordinary calls, and the program ends when all of it is on disk. A request that appends to the session resumes it like
// any other.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/helpers.h"
#include "common/base/status.h"
#include "common/kv/kv_rows.h"
#include "common/kv/summary.h"
#include "gpu_worker/backend/rope.h"
#include "gpu_worker/backend/rounded_kv.h"
#include "gpu_worker/engine/channel_energies.h"
#include "gpu_worker/model/loaded_model.h"
#include "kv_store/client/grpc_kv_client.h"
#include "tests/bench/bench_main.h"

ABSL_FLAG(std::string, store, "", "kv_store's address");
ABSL_FLAG(std::string, model, "", "the model that the worker serves");
ABSL_FLAG(std::string, source, "", "a session whose K/V is repeated");
ABSL_FLAG(std::string, session, "", "the session to write");
ABSL_FLAG(uint32_t, tokens, 65536, "its length; cut to whole chunks");
ABSL_FLAG(std::string, summary_method, "dealt", "as the worker's");
ABSL_FLAG(std::string, kv_dtype, "bf16", "bf16 or int8, as the worker's");

namespace hga {
namespace {

class Filler {
 public:
  Filler(const LoadedModel& model, const KvGeometry& geometry, const SummaryMethod& method, GrpcKvClient* store)
      : geometry_(geometry),
        fingerprint_(FingerprintWith(model.fingerprint, geometry.dtype)),
        method_(method),
        magnitude_(static_cast<float>(RopeMagnitude(model.weights.config))),
        store_(store),
        helpers_(std::max(1u, std::thread::hardware_concurrency())),
        rope_(model.weights.config) {}

  absl::Status Run(const std::string& source, const std::string& name, uint32_t tokens) {
    HGA_ASSIGN_OR_RETURN(const auto source_tokens, store_->GetSession(source, fingerprint_));
    const auto source_hashes = ChunkHashes(fingerprint_, geometry_, source_tokens);
    if (source_hashes.empty()) return absl::InvalidArgumentError(absl::StrCat(source, " has no complete chunk"));
    std::mt19937 random(1);
    std::vector<uint32_t> ids(tokens / geometry_.chunk_tokens * geometry_.chunk_tokens);
    for (uint32_t& id : ids) id = source_tokens[random() % source_tokens.size()];
    const auto hashes = ChunkHashes(fingerprint_, geometry_, ids);
    HGA_ASSIGN_OR_RETURN(const OpenedSession session, store_->OpenSession(name, fingerprint_, hashes));
    for (uint32_t chunk = 0; chunk < hashes.size(); ++chunk) {
      CommitChunk commit;
      commit.hash = hashes[chunk];
      commit.parent = chunk == 0 ? SeedHash(fingerprint_, geometry_) : hashes[chunk - 1];
      commit.token_ids.assign(ids.begin() + chunk * geometry_.chunk_tokens,
                              ids.begin() + (chunk + 1) * geometry_.chunk_tokens);
      const auto from = static_cast<uint32_t>(chunk % source_hashes.size());
      HGA_RETURN_IF_ERROR(FillChunk(source_hashes[from], (chunk - from) * geometry_.chunk_tokens, &commit));
      HGA_RETURN_IF_ERROR(store_->Commit(session, std::move(commit)).status());
    }
    HGA_RETURN_IF_ERROR(store_->UpdateSession(session, hashes, {}));
    HGA_RETURN_IF_ERROR(store_->CloseSession(session));
    return store_->Flush(false);
  }

 private:
  // Blocks and summary of a source's chunk, moved on by so many positions.
  absl::Status FillChunk(const ChunkHash& source, uint32_t distance, CommitChunk* out) {
    std::vector<BlockName> names;
    for (uint32_t layer = 0; layer < geometry_.layers; ++layer) names.push_back({source, layer});
    HGA_ASSIGN_OR_RETURN(const auto from, store_->Fetch(names));
    for (const FetchedBlock& block : from) HGA_RETURN_IF_ERROR(block.status);
    HGA_ASSIGN_OR_RETURN(out->blocks, Reserve());
    out->summary_method = method_.name;
    out->summary.resize(method_.chunk_bytes(geometry_));
    rope_.SetPosition(distance);
    helpers_.Run(geometry_.layers, [&](uint32_t layer, uint32_t) {
      void* const to = out->blocks[layer].data();
      std::memcpy(to, from[layer].block.data(), geometry_.block_bytes());
      if (distance > 0) TurnKeys(to);
      SummarizeBlock(geometry_, method_, layer, to,
                     reinterpret_cast<uint8_t*>(&out->summary[layer * method_.layer_bytes(geometry_)]));
    });
    return absl::OkStatus();
  }

  // The store makes room by writing.
  absl::StatusOr<std::vector<HeldBlock>> Reserve() {
    absl::StatusOr<std::vector<HeldBlock>> blocks = store_->Reserve(geometry_.layers);
    for (int attempt = 0; absl::IsResourceExhausted(blocks.status()) && attempt < 1000; ++attempt) {
      absl::SleepFor(absl::Milliseconds(20));
      blocks = store_->Reserve(geometry_.layers);
    }
    return blocks;
  }

  void TurnKeys(void* block) const {
    std::vector<float> key(geometry_.head_dim);
    std::vector<bf16> k(geometry_.head_dim), v(geometry_.head_dim);
    for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
      for (uint32_t token = 0; token < geometry_.chunk_tokens; ++token) {
        const KvPlace place = PlaceInBlock(geometry_, block, head, token);
        ReadKey(geometry_, place, k.data());
        ReadValue(geometry_, place, v.data());
        for (uint32_t i = 0; i < geometry_.head_dim; ++i) key[i] = ToFloat(k[i]) / magnitude_;
        rope_.Apply(key.data());
        for (uint32_t i = 0; i < geometry_.head_dim; ++i) k[i] = ToBf16(key[i]);
        WriteKv(geometry_, k.data(), v.data(), block, head, token);
      }
    }
  }

  const KvGeometry geometry_;
  const ModelFingerprint fingerprint_;
  const SummaryMethod& method_;
  const float magnitude_;
  GrpcKvClient* const store_;
  Helpers helpers_;
  Rope rope_;  // set to the distance of the chunk at hand
};

absl::Status Run() {
  HGA_ASSIGN_OR_RETURN(const auto model, LoadModel(absl::GetFlag(FLAGS_model)));
  KvGeometry geometry = model->weights.config.Geometry();
  HGA_ASSIGN_OR_RETURN(geometry.dtype, ParseKvDtype(absl::GetFlag(FLAGS_kv_dtype)));
  HGA_RETURN_IF_ERROR(geometry.Validate());
  HGA_ASSIGN_OR_RETURN(const auto backend, CreateBackend("cpu", model->weights, geometry, BackendOptions()));
  HGA_ASSIGN_OR_RETURN(const SummaryMethod* method,
                       PrepareSummaryMethod(absl::GetFlag(FLAGS_summary_method), *model, geometry, backend.get()));
  GrpcKvClientOptions options;
  options.address = absl::GetFlag(FLAGS_store);
  options.client_name = "fill_session";
  options.geometry = geometry;
  HGA_ASSIGN_OR_RETURN(const auto store, GrpcKvClient::Attach(options));
  return Filler(*model, geometry, *method, store.get())
      .Run(absl::GetFlag(FLAGS_source), absl::GetFlag(FLAGS_session), absl::GetFlag(FLAGS_tokens));
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  return hga::ExitCode(hga::Run());
}
