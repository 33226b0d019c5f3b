// Benchmark `linear`: the products of weights alone, as the cpu backend does them (activations rounded, outputs
// stored), on the shapes of Qwen3-0.6B, beside what the machine reads from memory (few rows) and what oneDNN multiplies
// alone (many rows). All of a round is measured one after the other, and ratios are taken inside a round.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/machine_limits.h"
#include "gpu_worker/backend/cpu/linear.h"
#include "gpu_worker/model/row_quantizer.h"
#include "tests/bench/bench_main.h"
#include "tests/bench/onednn_gemm.h"
#include "tests/bench/report.h"

ABSL_FLAG(bool, quick, false, "one round");

namespace hga {
namespace {

// A matrix is read in turn with as many others of its size, so that it comes from memory.
constexpr size_t kWeightsOfAShape = 48 << 20;
constexpr uint32_t kDistinctRows = 64;
constexpr uint32_t kRows[] = {1, 8, 64, 512};
constexpr uint32_t kMostRows = 512;

struct Shape {
  const char* name;
  std::vector<uint32_t> outputs;  // of the matrices side by side
  uint32_t cols;
  bool in_layer;  // else once for a token, in decode only

  uint32_t all_outputs() const {
    uint32_t sum = 0;
    for (uint32_t o : outputs) sum += o;
    return sum;
  }
};

const std::vector<Shape>& Shapes() {
  static const auto* shapes = new std::vector<Shape>{{"qkv", {2048, 1024, 1024}, 1024, true},
                                                     {"attn_output", {1024}, 2048, true},
                                                     {"gate_up", {3072, 3072}, 1024, true},
                                                     {"down", {1024}, 3072, true},
                                                     {"output", {151936}, 1024, false}};
  return *shapes;
}

struct Type {
  TensorType type;
  const char* name;
};
constexpr Type kTypes[] = {{TensorType::kQ8_0, "q8_0"}, {TensorType::kQ4_0, "q4_0"}, {TensorType::kQ4_1, "q4_1"},
                           {TensorType::kQ4_K, "q4_k"}, {TensorType::kQ6_K, "q6_k"}};

double SecondsOf(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> samples) { return Quantile(&samples, 0.5); }

// The matrices of one type and shape, as many as do not stay cached.
class Matrices {
 public:
  Matrices(std::shared_ptr<LinearContext> context, TensorType type, const Shape& shape) {
    const size_t row_bytes = TensorRowBytes(type, shape.cols), bytes = row_bytes * shape.all_outputs();
    const size_t copies = std::max<size_t>(1, kWeightsOfAShape / bytes);
    weights_.reserve(copies * bytes);
    std::mt19937 random(1);
    std::vector<std::vector<uint8_t>> rows;
    for (uint32_t i = 0; i < kDistinctRows; ++i) rows.push_back(RandomRow(type, shape.cols, 0.05f, &random));
    for (size_t i = 0; i < copies * shape.all_outputs(); ++i) {
      weights_.insert(weights_.end(), rows[i % kDistinctRows].begin(), rows[i % kDistinctRows].end());
    }
    const uint8_t* at = weights_.data();
    for (size_t copy = 0; copy < copies; ++copy) {
      std::vector<TensorView> parts;
      for (uint32_t outputs : shape.outputs) {
        parts.push_back({type, outputs, shape.cols, at, nullptr});
        at += row_bytes * outputs;
      }
      auto linear = Linear::Create(context, parts, shape.in_layer);
      HGA_CHECK(linear.ok());
      copies_.push_back(*std::move(linear));
    }
  }

  size_t bytes() const { return weights_.size(); }
  // Of one copy.
  double weights() const { return double{1} * copies_[0].cols() * copies_[0].outputs(); }
  // Seconds of one product, a mean over the copies, or over as many as do for GEMM.
  double Seconds(uint32_t rows, const std::vector<float>& x, std::vector<float>* y) {
    const size_t some = rows <= kGemvRowsMax ? copies_.size() : std::min<size_t>(copies_.size(), 2);
    return SecondsOf([&] {
      for (size_t i = 0; i < some; ++i) HGA_CHECK(copies_[i].Apply(x.data(), rows, y->data()).ok());
    }) / static_cast<double>(some);
  }

 private:
  std::vector<uint8_t> weights_;
  std::vector<Linear> copies_;
};

class LinearBench {
 public:
  LinearBench()
      : workers_(std::max(1u, std::thread::hardware_concurrency())),
        context_(std::make_shared<LinearContext>(&workers_)) {
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    x_.resize(size_t{kMostRows} * 3072);
    for (float& x : x_) x = normal(random);
    y_.resize(std::max<size_t>(size_t{kMostRows} * 6144, size_t{kGemvRowsMax} * 151936));
    workers_.BeginStep(false);
    for (const auto& [type, name] : {std::pair(OnednnType::kF32, "f32"), std::pair(OnednnType::kBf16, "bf16"),
                                     std::pair(OnednnType::kInt8, "int8")}) {
      std::vector<std::unique_ptr<OnednnGemm>> gemms;
      for (const Shape& shape : Shapes()) {
        if (shape.in_layer) gemms.push_back(OnednnGemm::Create(type, kMostRows, shape.cols, shape.all_outputs()));
      }
      if (gemms[0] != nullptr) onednn_[name] = std::move(gemms);
    }
  }

  void Round() {
    const double bandwidth = MeasureReadBandwidth();
    samples_["read_bandwidth_gbps"].push_back(bandwidth);
    const double peer = MeasureOnednn();
    for (const Type& type : kTypes) MeasureType(type, bandwidth, peer);
  }

  void Show(Report* report) const {
    report->Add("read_bandwidth_gbps", "machine: memory read bandwidth, all cores", Of("read_bandwidth_gbps"), "GB/s");
    report->Add("fma_gflops", "machine: f32 FMA in registers, all cores", MeasureFmaRate(), "GFLOP/s");
    for (const auto& [name, gemms] : onednn_) {
      report->Add(absl::StrCat("onednn_", name, "_gflops"), absl::StrCat("oneDNN alone, ", name, ", a layer, 512 rows"),
                  Of(absl::StrCat("onednn_", name, "_gflops")), "GFLOP/s");
    }
    for (const Type& type : kTypes) ShowType(type, report);
  }

 private:
  double Of(const std::string& key) const { return Median(samples_.at(key)); }

  // GFLOP/s of the float type that serves this CPU best.
  double MeasureOnednn() {
    double best = 0;
    for (const auto& [name, gemms] : onednn_) {
      double weights = 0, seconds = 0;
      for (size_t i = 0; i < gemms.size(); ++i) {
        weights += double{1} * Shapes()[i].cols * Shapes()[i].all_outputs();
        gemms[i]->Run();
        seconds += std::min(SecondsOf([&] { gemms[i]->Run(); }), SecondsOf([&] { gemms[i]->Run(); }));
      }
      const double gflops = 2e-9 * kMostRows * weights / seconds;
      samples_[absl::StrCat("onednn_", name, "_gflops")].push_back(gflops);
      if (name != "int8") best = std::max(best, gflops);
    }
    return best;
  }

  void MeasureType(const Type& type, double bandwidth, double peer) {
    std::map<uint32_t, double> seconds, weights, bytes;  // of a layer, by rows
    for (const Shape& shape : Shapes()) {
      Matrices matrices(context_, type.type, shape);
      const double of_one = matrices.weights() * TensorRowBytes(type.type, shape.cols) / shape.cols;
      for (const uint32_t rows : kRows) {
        if (!shape.in_layer && rows > kGemvRowsMax) continue;
        workers_.BeginStep(rows <= kGemvRowsMax);
        matrices.Seconds(rows, x_, &y_);
        const double s = matrices.Seconds(rows, x_, &y_);
        Add(absl::StrCat(type.name, "_", shape.name, "_", rows), rows, matrices.weights(), of_one, s, bandwidth, peer);
        seconds[rows] += shape.in_layer ? s : 0;
        weights[rows] += shape.in_layer ? matrices.weights() : 0;
        bytes[rows] += shape.in_layer ? of_one : 0;
      }
    }
    for (const uint32_t rows : kRows) {
      Add(absl::StrCat(type.name, "_layer_", rows), rows, weights[rows], bytes[rows], seconds[rows], bandwidth, peer);
    }
  }

  void Add(const std::string& key, uint32_t rows, double weights, double bytes, double seconds, double bandwidth,
           double peer) {
    samples_[key + "_gbps"].push_back(bytes / seconds / 1e9);
    samples_[key + "_of_bandwidth"].push_back(bytes / seconds / 1e9 / bandwidth);
    samples_[key + "_gflops"].push_back(2e-9 * rows * weights / seconds);
    samples_[key + "_of_onednn"].push_back(2e-9 * rows * weights / seconds / peer);
  }

  // A layer for all numbers of rows, its products one by one for the first and the last of them.
  void ShowType(const Type& type, Report* report) const {
    const std::string name = absl::AsciiStrToUpper(type.name);
    for (const std::string what : {"layer", "qkv", "attn_output", "gate_up", "down", "output"}) {
      for (const uint32_t rows : kRows) {
        const std::string key = absl::StrCat(type.name, "_", what, "_", rows);
        if (what != "layer" && rows != 1 && rows != kMostRows) continue;
        if (samples_.count(key + "_gbps") == 0) continue;
        const bool gemv = rows <= kGemvRowsMax;
        const std::string unit = gemv ? "_gbps" : "_gflops", ratio = gemv ? "_of_bandwidth" : "_of_onednn";
        report->Add(key + unit, absl::StrCat(name, ", ", what, ", ", rows, rows == 1 ? " row" : " rows"),
                    Of(key + unit), gemv ? "GB/s" : "GFLOP/s");
        report->Add(key + ratio, gemv ? "  of the read bandwidth" : "  of oneDNN's speed in floats at 512 rows",
                    Of(key + ratio), "");
      }
    }
  }

  Workers workers_;
  std::shared_ptr<LinearContext> context_;
  std::vector<float> x_, y_;
  std::map<std::string, std::vector<std::unique_ptr<OnednnGemm>>> onednn_;  // for each shape of a layer
  std::map<std::string, std::vector<double>> samples_;                      // one for each round
};

int Run() {
  std::printf("linear: %s\n", MachineName().c_str());
  LinearBench bench;
  for (int round = absl::GetFlag(FLAGS_quick) ? 1 : 5; round > 0; --round) bench.Round();
  Report report;
  bench.Show(&report);
  return ExitCode(WriteNumbers(report));
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  return hga::Run();
}
