// Benchmark `disk_unit`: which unit of K/V on disk serves recorded selections of a real model best. Each unit is
// written to a store of its own by the real disk tier, and what each token attends is read back cold.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/numeric/bits.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/machine_limits.h"
#include "kv_store/service/testing_daemon.h"
#include "kv_store/tier/rocks_tier.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/report.h"
#include "tests/bench/selection_recorder.h"
#include "tests/support/process.h"

ABSL_FLAG(std::string, model, "", "GGUF file of SmolLM2-135M-Instruct");
ABSL_FLAG(std::string, document, "", "text file");
ABSL_FLAG(std::string, configuration, "sketch/512/decode", "of tests/quality");
ABSL_FLAG(bool, quick, false, "a shorter text, fewer tokens");

namespace hga {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kDepth = 32;  // reads under way at once, as kv_store's --read_threads

// A way to cut blocks: `heads` KV heads and `tokens` tokens are one record.
struct Unit {
  const char* key;
  const char* what;
  uint32_t heads, tokens;  // heads 0: all
};
constexpr Unit kUnits[] = {
    {"block", "whole block: all heads, 64 tokens", 0, 64},
    {"head64", "record per KV head, 64 tokens", 1, 64},
    {"head32", "record per KV head, 32 tokens", 1, 32},
    {"head16", "record per KV head, 16 tokens", 1, 16},
};

// Names of records: the part of a block is a layer more, so that parts of one block lie side by side.
struct Layout {
  Layout(const KvGeometry& block, const Unit& unit)
      : heads(unit.heads == 0 ? block.kv_heads : unit.heads), tokens(unit.tokens), geometry(block) {
    parts = block.kv_heads / heads * (block.chunk_tokens / tokens);
    geometry.layers = block.layers * parts;
    geometry.kv_heads = geometry.query_heads = heads;
    geometry.chunk_tokens = tokens;
    geometry.group_tokens = std::min(tokens, block.group_tokens);
  }
  // The records, as layers of the chunk, that hold what was selected.
  template <typename F>
  void ForEach(const Selected& s, uint32_t chunk_tokens, F&& visit) const {
    const uint32_t per_head = chunk_tokens / tokens;
    for (uint32_t piece = 0; piece < per_head; ++piece) {
      const uint64_t bits = tokens == 64 ? ~uint64_t{0} : ((uint64_t{1} << tokens) - 1) << (piece * tokens);
      if ((s.mask & bits) != 0) visit(s.layer * parts + s.kv_head / heads * per_head + piece);
    }
  }
  uint32_t heads, tokens, parts = 0;
  KvGeometry geometry;  // of a record
};

// What is read for one layer of one token: records by (chunk, layer of the layout).
using Reads = std::vector<std::pair<uint32_t, uint32_t>>;

// `hold`: what an earlier token has read is still there.
std::vector<Reads> ReadsOf(const Recording& recording, const Layout& layout, bool hold) {
  std::vector<Reads> reads(size_t{recording.tokens} * recording.geometry.layers);
  std::set<std::pair<uint32_t, uint32_t>> held;
  for (size_t i = 0; i < recording.selected.size();) {
    const Selected& first = recording.selected[i];
    std::set<std::pair<uint32_t, uint32_t>> wanted;
    for (; i < recording.selected.size(); ++i) {
      const Selected& s = recording.selected[i];
      if (s.token != first.token || s.layer != first.layer) break;
      layout.ForEach(s, recording.geometry.chunk_tokens, [&](uint32_t record) { wanted.insert({s.chunk, record}); });
    }
    Reads& out = reads[size_t{first.token} * recording.geometry.layers + first.layer];
    for (const auto& record : wanted) {
      if (!hold || held.insert(record).second) out.push_back(record);
    }
  }
  return reads;
}

ChunkHash NameOf(uint32_t copy, uint32_t chunk) { return HashBytes(absl::StrCat("chunk ", copy, " ", chunk)); }

// A store of one layout: some copies of the text, so that reading it again and again meets no cache.
class UnitStore {
 public:
  UnitStore(const Layout& layout, uint32_t chunks, uint64_t bytes) : layout_(layout), chunks_(chunks) {
    RocksTierOptions options;
    options.data_dir = daemon_.dir() + "/data";
    auto tier = OpenRocksTier(options);
    HGA_CHECK(tier.ok() && (*tier)->SetGeometry(layout.geometry).ok());
    tier_ = *std::move(tier);
    const uint64_t chunk_bytes = layout.geometry.block_bytes() * layout.geometry.layers;
    copies_ = static_cast<uint32_t>(std::max<uint64_t>(1, bytes / (chunk_bytes * chunks)));
    std::vector<uint8_t> block(layout.geometry.block_bytes());
    std::mt19937 random(1);
    for (uint8_t& byte : block) byte = static_cast<uint8_t>(random());
    const uint64_t checksum = BlockChecksum(block.data(), block.size());
    const auto summary = std::make_shared<const SummaryRecord>(SummaryRecord{"mean", "s"});
    WriteStep step;
    for (uint32_t i = 0; i < copies_ * chunks; ++i) {
      ChunkRecord record{NameOf(i / chunks, i % chunks), {}, std::vector<uint32_t>(layout.geometry.chunk_tokens),
                         std::vector<uint64_t>(layout.geometry.layers, checksum)};
      step.put_chunks.push_back({std::make_shared<const ChunkRecord>(std::move(record)), summary,
                                 std::vector<const uint8_t*>(layout.geometry.layers, block.data())});
      if (step.put_chunks.size() * chunk_bytes < (64u << 20) && i + 1 < copies_ * chunks) continue;
      HGA_CHECK(tier_->Write(step).ok());
      step = WriteStep();
    }
  }

  // Seconds for all of it, kDepth batches at a time, cut as the store cuts them; layers do not wait for each other.
  double Read(const std::vector<Reads>& reads, uint32_t layers) {
    struct Batch {
      uint32_t copy;
      Reads records;
    };
    std::vector<Batch> batches;
    for (size_t i = 0; i < reads.size(); ++i) {
      const size_t at_once = std::max<size_t>(1, std::min<size_t>(32, (reads[i].size() + kDepth - 1) / kDepth));
      for (size_t begin = 0; begin < reads[i].size(); begin += at_once) {
        const auto first = reads[i].begin() + begin;
        batches.push_back({static_cast<uint32_t>(i / layers % copies_),
                           {first, first + std::min(at_once, reads[i].size() - begin)}});
      }
    }
    std::atomic<size_t> next{0};
    const auto start = Clock::now();
    std::vector<std::thread> threads;
    for (int t = 0; t < kDepth; ++t) {
      threads.emplace_back([&] {
        std::vector<uint8_t> out(32 * layout_.geometry.block_bytes());
        for (size_t i = next++; i < batches.size(); i = next++) {
          std::vector<BlockRead> batch(batches[i].records.size());
          for (size_t r = 0; r < batch.size(); ++r) {
            batch[r].name = {NameOf(batches[i].copy, batches[i].records[r].first), batches[i].records[r].second};
            batch[r].out = out.data() + r * layout_.geometry.block_bytes();
          }
          tier_->ReadBlocks(absl::MakeSpan(batch));
          for (const BlockRead& read : batch) HGA_CHECK(read.status.ok());
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

 private:
  const Layout layout_;
  const uint32_t chunks_;
  uint32_t copies_ = 1;
  TestingDaemon daemon_;
  std::unique_ptr<KvTier> tier_;
};

void MeasureUnit(const Recording& recording, const Unit& unit, Report* report) {
  const Layout layout(recording.geometry, unit);
  const uint64_t record_bytes = layout.geometry.block_bytes();
  UnitStore store(layout, recording.chunks, absl::GetFlag(FLAGS_quick) ? 512ull << 20 : 2048ull << 20);
  std::printf("%s: %llu bytes\n", unit.what, static_cast<unsigned long long>(record_bytes));
  for (const bool hold : {false, true}) {
    const std::vector<Reads> reads = ReadsOf(recording, layout, hold);
    uint64_t records = 0, runs = 0;
    for (const Reads& layer : reads) {
      records += layer.size();
      for (size_t i = 0; i < layer.size(); ++i)
        runs += i == 0 || layer[i].first != layer[i - 1].first || layer[i].second != layer[i - 1].second + 1;
    }
    std::vector<double> seconds;
    for (int pass = 0; pass < 3; ++pass) seconds.push_back(store.Read(reads, recording.geometry.layers));
    const double tokens = recording.tokens;
    const std::string key = absl::StrCat(unit.key, hold ? "_new" : "_cold");
    const std::string what = hold ? "  only what no earlier token read" : "  all a token attends";
    report->Add(key + "_mb", what, static_cast<double>(records * record_bytes) / tokens / 1e6, "MB/token");
    report->Add(key + "_records", "    records", static_cast<double>(records) / tokens, "/token");
    report->Add(key + "_reads", "    reads where neighbours are read together", static_cast<double>(runs) / tokens,
                "/token");
    report->Add(key + "_ms", "    from disk", Quantile(&seconds, 0.5) / tokens * 1e3, "ms/token");
  }
}

int Run() {
  std::printf("disk_unit: %s\n", MachineName().c_str());
  std::string text = ReadFileOrEmpty(absl::GetFlag(FLAGS_document));
  const bool quick = absl::GetFlag(FLAGS_quick);
  const auto recording = RecordSelections(absl::GetFlag(FLAGS_model), text, quick ? 2048 : 6400, quick ? 32 : 128,
                                          absl::GetFlag(FLAGS_configuration));
  if (!recording.ok()) {
    std::fprintf(stderr, "disk_unit_bench: %s\n", recording.status().ToString().c_str());
    return 1;
  }
  Report report;
  double keys = 0;
  for (const Selected& s : recording->selected) keys += absl::popcount(s.mask);
  report.Add("selected_keys", "keys selected per KV head, layer and token",
             keys / recording->tokens / recording->geometry.layers / recording->geometry.kv_heads, "keys");
  report.Add("selected_mb", "  their K and V", keys / recording->tokens * recording->geometry.head_dim * 4 / 1e6,
             "MB/token");
  for (const Unit& unit : kUnits) MeasureUnit(*recording, unit, &report);
  return ExitCode(WriteNumbers(report));
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  return hga::Run();
}
