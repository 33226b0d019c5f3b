// The harness itself: what it calls dense is dense, budgets are kept, nothing looks ahead, nothing is measured twice.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>

#include "absl/strings/match.h"
#include "gpu_worker/backend/sequence_runner.h"
#include "gtest/gtest.h"
#include "tests/quality/bench.h"
#include "tests/quality/configuration.h"
#include "tests/quality/loss.h"
#include "tests/quality/sequence_run.h"
#include "tests/quality/small_model_test.h"

namespace hga {
namespace {

constexpr uint32_t kStep = 128;
constexpr uint32_t kLength = 640;
constexpr uint32_t kBudget = 256;
constexpr uint32_t kEverything = 1u << 20;

// The windows of the product would leave a short sequence nothing to route.
KeyBudget ShortWindows() {
  KeyBudget shape;
  shape.prefill_window = 128;
  shape.sink_tokens = 16;  // a whole group, so that methods which choose groups can attend just the budget
  return shape;
}

std::vector<uint32_t> Tokens(uint32_t count) {
  std::mt19937 random(3);
  std::vector<uint32_t> tokens(count);
  for (uint32_t& token : tokens) token = random() % 260;
  return tokens;
}

class QualityTest : public SmallModelTest {
 protected:
  Configuration Parse(const std::string& method, uint32_t keys, Path path) const {
    const std::string name = method + "/" + std::to_string(keys) + "/" + PathName(path);
    auto configuration = ParseConfiguration(name, ShortWindows());
    EXPECT_TRUE(configuration.ok()) << configuration.status();
    return *configuration;
  }

  // Logits of all tokens; keys: what each attended.
  std::vector<float> Logits(const Configuration& c, const std::vector<uint32_t>& tokens,
                            std::vector<double>* keys = nullptr) {
    auto selector = CreateSelector(c, geometry_);
    EXPECT_TRUE(selector.ok()) << selector.status();
    SequenceRun run(backend_.get(), geometry_, *std::move(selector));
    std::vector<float> all, step;
    for (size_t first = 0; first < tokens.size(); first += kStep) {
      const auto rows = absl::MakeConstSpan(tokens).subspan(first, kStep);
      EXPECT_TRUE(run.Step(c.path, rows, 0, &step).ok());
      all.insert(all.end(), step.begin(), step.end());
      if (keys != nullptr) keys->insert(keys->end(), run.keys().begin(), run.keys().end());
    }
    return all;
  }
};

constexpr const char* kMethods[] = {"sketch",           "sketch+residual",     "cuboid",        "mean",
                                    "mean_hga",         "oracle_groups",       "oracle_tokens", "box32",
                                    "kmeans8-int8+max", "oracle_tokens+shared"};

TEST_F(QualityTest, DenseIsTheDenseRunnersArithmetic) {
  const auto tokens = Tokens(kLength);
  SequenceRunner runner("cpu", model_->weights, 1);
  std::vector<float> expected;
  for (size_t first = 0; first < tokens.size(); first += kStep) {
    const auto step = runner.Step({tokens.begin() + first, tokens.begin() + first + kStep});
    expected.insert(expected.end(), step.begin(), step.end());
  }
  EXPECT_EQ(Logits(Parse("dense", 0, Path::kPrefill), tokens), expected);
}

// All methods bit by bit the same; dense attention adds in another order.
TEST_F(QualityTest, ABudgetForEverythingIsDense) {
  const auto tokens = Tokens(kLength);
  for (const Path path : {Path::kDecode, Path::kPrefill}) {
    const auto dense = Logits(Parse("dense", 0, path), tokens);
    const auto everything = Logits(Parse(kMethods[0], kEverything, path), tokens);
    ASSERT_EQ(everything.size(), dense.size());
    // Sums in another order flip the last bit of a K or V, or of a rounded activation, here and there.
    for (size_t i = 0; i < dense.size(); ++i) ASSERT_NEAR(everything[i], dense[i], 0.1) << PathName(path);
    for (const char* method : kMethods) {
      std::vector<double> keys;
      EXPECT_EQ(Logits(Parse(method, kEverything, path), tokens, &keys), everything) << method << " " << PathName(path);
      EXPECT_EQ(keys.back(), kLength);
    }
  }
  EXPECT_EQ(Logits(Parse("window", kEverything, Path::kDecode), tokens),
            Logits(Parse("dense", 0, Path::kDecode), tokens));
}

TEST_F(QualityTest, AQueryWhoseHistoryFitsTheBudgetIsDense) {
  for (const Path path : {Path::kDecode, Path::kPrefill}) {
    for (const char* method : {"sketch", "cuboid", "window"}) {
      std::vector<double> keys;
      Logits(Parse(method, kBudget, path), Tokens(kLength), &keys);
      for (uint32_t position = 0; position < kBudget; ++position) {
        ASSERT_EQ(keys[position], position + 1) << method << " " << PathName(path);
      }
    }
  }
}

TEST_F(QualityTest, DecodeAttendsExactlyTheBudget) {
  for (const char* method : {"oracle_tokens", "sketch+fixed", "window"}) {
    std::vector<double> keys;
    Logits(Parse(method, kBudget, Path::kDecode), Tokens(kLength), &keys);
    for (uint32_t position = kBudget; position < kLength; ++position) {
      ASSERT_EQ(keys[position], kBudget) << method << " at " << position;
    }
  }
  for (const char* method : {"oracle_groups", "cuboid+fixed", "mean+fixed"}) {
    std::vector<double> keys;
    Logits(Parse(method, kBudget, Path::kDecode), Tokens(kLength), &keys);
    double sum = 0;
    for (uint32_t position = kBudget; position < kLength; ++position) {
      ASSERT_NEAR(keys[position], kBudget, geometry_.group_tokens / 2) << method << " at " << position;
      sum += keys[position];
    }
    EXPECT_NEAR(sum / (kLength - kBudget), kBudget, 2) << method;
  }
  // Its chunks are counted as whole ones, though the first has sinks in it.
  std::vector<double> keys;
  Logits(Parse("mean_hga", kBudget, Path::kDecode), Tokens(kLength), &keys);
  for (uint32_t position = kBudget; position < kLength; ++position) {
    ASSERT_NEAR(keys[position], kBudget - 8, 16) << position;
  }
}

TEST_F(QualityTest, AStrictStepNeverExceedsItsBudgetOverTheLayers) {
  for (const char* method : {"sketch+step1", "sketch+step1+least0", "oracle_tokens+shared+step1+least0",
                             "sketch+step1+top_p0.5"}) {
    std::vector<double> keys;
    Logits(Parse(method, kBudget, Path::kDecode), Tokens(kLength), &keys);
    double sum = 0;
    for (uint32_t position = kBudget; position < kLength; ++position) {
      ASSERT_LE(keys[position], kBudget) << method << " at " << position;
      sum += keys[position] / (kLength - kBudget);
    }
    const bool spends_it = absl::EndsWith(method, "least0");
    EXPECT_GT(sum, (spends_it ? 0.98 : 0.3) * kBudget) << method;
  }
}

TEST_F(QualityTest, PrefillAttendsTheBudgetOnAverage) {
  for (const char* method : {"oracle_tokens", "sketch+fixed", "sketch+least0", "sketch+least0+block16"}) {
    std::vector<double> keys;
    Logits(Parse(method, kBudget, Path::kPrefill), Tokens(kLength), &keys);
    double sum = 0;
    for (uint32_t position = kBudget + kStep; position < kLength; ++position) sum += keys[position];
    EXPECT_NEAR(sum / (kLength - kBudget - kStep), kBudget, 0.02 * kBudget) << method;
  }
}

TEST_F(QualityTest, ALaterTokenChangesNothingBeforeIt) {
  const uint32_t changed = 531;  // inside a chunk, a group and a step
  const auto tokens = Tokens(kLength);
  auto other = tokens;
  other[changed] = (tokens[changed] + 1) % 260;
  const uint32_t vocab = model_->weights.config.vocab_size;
  for (const Path path : {Path::kDecode, Path::kPrefill}) {
    for (const char* method : kMethods) {
      const Configuration c = Parse(method, kBudget, path);
      const auto a = Logits(c, tokens), b = Logits(c, other);
      const auto differ = std::mismatch(a.begin(), a.end(), b.begin()).first - a.begin();
      EXPECT_EQ(differ / vocab, changed) << method << " " << PathName(path);
    }
  }
}

TEST_F(QualityTest, LossIsThatOfTheLogits) {
  const auto tokens = Tokens(kLength);
  LossOptions options;
  options.start = 300;
  options.step_tokens = kStep;
  const std::vector<Configuration> configurations = {Parse("sketch", kEverything, Path::kPrefill),
                                                     Parse("window", kBudget, Path::kDecode)};
  const auto losses = MeasureLoss(backend_.get(), geometry_, tokens, configurations, options, [](uint32_t) {});
  ASSERT_TRUE(losses.ok()) << losses.status();
  ASSERT_EQ(losses->size(), 2);

  const uint32_t vocab = model_->weights.config.vocab_size;
  const auto dense = Logits(Parse("dense", 0, Path::kPrefill), tokens), window = Logits(configurations[1], tokens);
  double nll[2] = {}, kl = 0;
  for (uint32_t position = options.start; position + 1 < kLength; ++position) {
    const float* rows[2] = {&dense[size_t{position} * vocab], &window[size_t{position} * vocab]};
    double log_sum[2] = {};
    for (int i = 0; i < 2; ++i) {
      for (uint32_t t = 0; t < vocab; ++t) log_sum[i] += std::exp(double{rows[i][t]});
      log_sum[i] = std::log(log_sum[i]);
      nll[i] += log_sum[i] - rows[i][tokens[position + 1]];
    }
    for (uint32_t t = 0; t < vocab; ++t) {
      const double log_p = rows[0][t] - log_sum[0], log_q = rows[1][t] - log_sum[1];
      kl += std::exp(log_p) * (log_p - log_q);
    }
  }
  LossBucket full, routed;
  for (int i = 0; i < 2; ++i) {
    LossBucket* sum = i == 0 ? &full : &routed;
    for (const LossBucket& b : (*losses)[i].buckets) {
      sum->queries += b.queries;
      sum->nll += b.nll;
      sum->dense_nll += b.dense_nll;
      sum->kl += b.kl;
    }
    EXPECT_EQ(sum->queries, kLength - 1 - options.start);
  }
  EXPECT_NEAR(full.nll, full.dense_nll, 1e-4 * full.dense_nll);
  EXPECT_NEAR(full.kl, 0, 1e-3);
  EXPECT_NEAR(routed.dense_nll, nll[0], 1e-3);
  EXPECT_NEAR(routed.nll, nll[1], 1e-3);
  EXPECT_NEAR(routed.kl, kl, 1e-3);
  EXPECT_GT(kl, 0.01);
}

TEST_F(QualityTest, OracleTokensHaveTheMostMass) {
  const uint32_t chunks = 4, per_head = geometry_.queries_per_kv_head(), d = geometry_.head_dim, budget = 20;
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<std::vector<bf16>> blocks(chunks, std::vector<bf16>(geometry_.block_elements()));
  for (auto& block : blocks) {
    for (bf16& x : block) x = ToBf16(normal(random));
  }
  std::vector<bf16> queries(size_t{geometry_.query_heads} * d);
  for (bf16& x : queries) x = ToBf16(normal(random));

  StepRows rows;
  rows.rows = 1;
  rows.first_position = chunks * geometry_.chunk_tokens - 1;
  rows.queries = queries.data();
  RoutedRows routed;
  routed.route.tokens = 1;
  routed.route.first_key = 16;
  routed.route.route_upto = 3;
  routed.route.budget_keys = &budget;
  routed.route.queries = queries.data();
  std::vector<std::vector<HeadSelection>> chosen;
  std::vector<std::vector<float>> missed;
  const auto block_of = [&](uint32_t c) { return blocks[c].data(); };
  NewOracleChooser(geometry_, 1)->Choose(rows, {routed}, block_of, &chosen, &missed);

  for (uint32_t head = 0; head < geometry_.kv_heads; ++head) {
    std::vector<std::pair<double, uint32_t>> mass(3 * geometry_.chunk_tokens);
    for (uint32_t q = 0; q < per_head; ++q) {
      std::vector<double> e;
      for (uint32_t key = 0; key <= rows.first_position; ++key) {
        const uint32_t in_chunk = key % geometry_.chunk_tokens;
        const bf16* k = blocks[key / geometry_.chunk_tokens].data() + geometry_.k_row(head, in_chunk);
        double dot = 0;
        for (uint32_t i = 0; i < d; ++i) dot += ToFloat(queries[(head * per_head + q) * d + i]) * ToFloat(k[i]);
        e.push_back(std::exp(dot / std::sqrt(static_cast<double>(d))));
      }
      double sum = 0;
      for (double x : e) sum += x;
      for (uint32_t key = 0; key < mass.size(); ++key) mass[key] = {mass[key].first + e[key] / sum, key};
    }
    std::sort(mass.begin(), mass.end(), std::greater<>());
    std::vector<uint64_t> expected(3);
    uint32_t taken = 0;
    for (const auto& [m, key] : mass) {
      if (key < routed.route.first_key || taken++ >= budget) continue;
      expected[key / 64] |= uint64_t{1} << (key % 64);
    }
    std::vector<uint64_t> actual(3);
    for (const SelectedChunk& s : chosen[0][head]) actual[s.chunk] |= s.mask;
    EXPECT_EQ(actual, expected);
  }
}

std::string Contents(const std::string& path) {
  auto text = ReadText(path);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? *text : "";
}

TEST_F(QualityTest, MeasuresOnlyWhatIsMissing) {
  std::mt19937 random(9);
  std::ofstream text(folder_.File("text.txt"));
  for (int i = 0; i < 2000; ++i) text << static_cast<char>('a' + random() % 26);
  text.close();
  QualityOptions options;
  options.model = path_;
  options.texts = {folder_.File("text.txt")};
  options.out = folder_.File("out.jsonl");
  options.lengths = {600};
  options.threads = 1;
  options.configs = "sketch/256/decode";
  ASSERT_TRUE(RunLoss(options).ok());
  const std::string once = Contents(options.out);
  EXPECT_EQ(std::count(once.begin(), once.end(), '\n'), 1);
  ASSERT_TRUE(RunLoss(options).ok());
  EXPECT_EQ(Contents(options.out), once);

  options.configs = "sketch/256/decode,window/256/decode";
  ASSERT_TRUE(RunLoss(options).ok());
  const std::string twice = Contents(options.out);
  EXPECT_EQ(twice.substr(0, once.size()), once);
  EXPECT_EQ(std::count(twice.begin(), twice.end(), '\n'), 2);

  // A line that was cut off is measured again; what is before it stays.
  std::filesystem::resize_file(options.out, twice.size() - 10);
  ASSERT_TRUE(RunLoss(options).ok());
  const std::string again = Contents(options.out);
  EXPECT_EQ(again.substr(0, once.size()), once);
  EXPECT_EQ(std::count(again.begin(), again.end(), '\n'), 2);
}

}  // namespace
}  // namespace hga
