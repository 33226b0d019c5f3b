// Benchmark `models`: what it takes to load a model (LoadModel; what a backend then packs for itself is not in it),
// with its files in the page cache and not. Each load happens in a process of its own, whose peak memory is the load's.
// Then the tokenizer's speed.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/machine_limits.h"
#include "common/base/status.h"
#include "gpu_worker/model/loaded_model.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gpu_worker/model/tensor_list.h"
#include "nlohmann/json.hpp"
#include "tests/bench/bench_main.h"
#include "tests/bench/report.h"
#include "tests/bench/tokenizer_bench.h"

ABSL_FLAG(std::string, model, "", "SmolLM2-135M-Instruct.Q4_1.gguf");
ABSL_FLAG(std::string, scratch, "/tmp", "where the synthetic checkpoint (4.4 GB) is written for the while");
ABSL_FLAG(bool, quick, false, "a synthetic checkpoint of one layer, one repetition");
ABSL_FLAG(std::string, measure, "", "load this model, print the figures as JSON, exit");

namespace hga {
namespace {

namespace fs = std::filesystem;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Memory of this process that no file backs: what loading copied.
double AnonymousBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (absl::StartsWith(line, "RssAnon:")) return std::strtod(line.c_str() + 8, nullptr) * 1024;
  }
  return 0;
}

// One look at each page of the weights, as the first tokens will take it.
double ReadOnce(const ModelWeights& weights) {
  const auto start = std::chrono::steady_clock::now();
  uint64_t sum = 0;
  for (const auto& [name, view] : ListTensors(weights)) {
    const uint64_t bytes = view.rows * view.row_bytes();
    for (uint64_t i = 0; i < bytes; i += 4096) sum += view.data[i];
  }
  const double seconds = SecondsSince(start);
  return sum == UINT64_MAX ? 0 : seconds;  // the sum is used, so that the reads cannot be optimised away
}

int Measure(const std::string& path) {
  const auto model = LoadModel(path);
  if (!model.ok()) {
    std::fprintf(stderr, "models_bench: %s\n", std::string(model.status().message()).c_str());
    return 1;
  }
  nlohmann::json json = {{"load_s", (*model)->load_seconds},
                         {"load_peak_bytes", (*model)->load_peak_bytes},
                         {"anonymous_bytes", AnonymousBytes()},
                         {"weight_bytes", CountWeightBytes((*model)->weights)}};
  json["read_s"] = ReadOnce((*model)->weights);
  std::printf("%s\n", json.dump().c_str());
  return 0;
}

std::vector<std::string> FilesOf(const std::string& path) {
  if (!fs::is_directory(path)) return {path};
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(path)) files.push_back(entry.path().string());
  return files;
}

// The share of a file that is in the page cache.
double CachedShare(int fd, size_t bytes) {
  if (bytes == 0) return 0;
  void* data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED) return 1;
  std::vector<unsigned char> pages((bytes + 4095) / 4096);
  const bool known = ::mincore(data, bytes, pages.data()) == 0;
  ::munmap(data, bytes);
  const auto cached = std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; });
  return known ? static_cast<double>(cached) / pages.size() : 1;
}

// Written back and dropped from the page cache of this machine; a virtual disk's host may still hold them.
absl::Status DropFromCache(const std::string& path) {
  for (const std::string& file : FilesOf(path)) {
    const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", file));
    ::fdatasync(fd);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    const double cached = CachedShare(fd, fs::file_size(file));
    ::close(fd);
    if (cached > 0.01) return absl::UnavailableError(absl::StrCat(file, " stays in the page cache; who else has it?"));
  }
  return absl::OkStatus();
}

absl::StatusOr<nlohmann::json> MeasureInChild(const std::string& path) {
  const std::string self = fs::read_symlink("/proc/self/exe").string();
  FILE* pipe = ::popen(absl::StrCat("'", self, "' '--measure=", path, "'").c_str(), "r");
  if (pipe == nullptr) return absl::ErrnoToStatus(errno, "popen");
  std::string output;
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
  const int code = ::pclose(pipe);
  nlohmann::json json = nlohmann::json::parse(output, nullptr, false);
  if (code != 0 || !json.is_object()) return absl::InternalError(absl::StrCat("loading ", path, " failed"));
  return json;
}

class ModelsBench {
 public:
  explicit ModelsBench(int repetitions) : repetitions_(repetitions) {}

  // Cold first: the last of its loads leaves the files in the cache.
  absl::Status Run(const std::string& key, const std::string& what, const std::string& path) {
    HGA_RETURN_IF_ERROR(RunOnce(key + "_cold", what + ", cold", path, /*cold=*/true));
    return RunOnce(key + "_warm", what + ", warm", path, /*cold=*/false);
  }
  void AddWorst() {
    report_.Add("load_s", "the slowest of these: loaded after", worst_load_s_, "s");
    report_.Add("load_peak_bytes", "the largest of these: peak memory", worst_peak_, "B");
  }
  Report* report() { return &report_; }

 private:
  absl::Status RunOnce(const std::string& key, const std::string& what, const std::string& path, bool cold) {
    std::vector<double> load, read, peak, anonymous;
    double weights = 0;
    for (int i = 0; i < repetitions_; ++i) {
      if (cold) HGA_RETURN_IF_ERROR(DropFromCache(path));
      HGA_ASSIGN_OR_RETURN(const nlohmann::json json, MeasureInChild(path));
      load.push_back(json["load_s"]);
      read.push_back(json["read_s"]);
      peak.push_back(json["load_peak_bytes"]);
      anonymous.push_back(json["anonymous_bytes"]);
      weights = json["weight_bytes"];
    }
    report_.Add(key + "_load_s", what + ": loaded after", Quantile(&load, 0.5), "s");
    report_.Add(key + "_read_s", what + ": then each weight page read once", Quantile(&read, 0.5), "s");
    report_.Add(key + "_load_peak_bytes", what + ": peak memory, mapped pages included",
                Quantile(&peak, 1), "B");
    report_.Add(key + "_anonymous_bytes", what + ": of it not backed by the files", Quantile(&anonymous, 1), "B");
    if (!cold) report_.Add("", what + ": weights", weights, "B");
    worst_load_s_ = std::max(worst_load_s_, Quantile(&load, 0.5));
    worst_peak_ = std::max(worst_peak_, Quantile(&peak, 1));
    return absl::OkStatus();
  }

  const int repetitions_;
  Report report_;
  double worst_load_s_ = 0, worst_peak_ = 0;
};

// A folder under --scratch for `run`, which removes it.
absl::Status InScratch(const std::function<absl::Status(const std::string& folder)>& run) {
  std::string folder = absl::GetFlag(FLAGS_scratch) + "/hga_models.XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("cannot make ", folder));
  const absl::Status status = run(folder);
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  return status;
}

// A copy: pages that another process has mapped cannot be dropped from the cache.
absl::Status RunCopy(const std::string& model, ModelsBench* bench) {
  return InScratch([&](const std::string& folder) {
    const std::string copy = folder + "/model.gguf";
    std::error_code error;
    fs::copy_file(model, copy, error);
    if (error) return absl::UnavailableError(absl::StrCat("cannot copy ", model, ": ", error.message()));
    return bench->Run("smollm2", "SmolLM2-135M Q4_1", copy);
  });
}

absl::Status RunSynthetic(uint32_t layers, ModelsBench* bench) {
  return InScratch([&](const std::string& folder) {
    RandomCheckpointOptions options = Qwen3Moe30bFp8(layers);
    options.shard_bytes = uint64_t{2} << 30;
    HGA_RETURN_IF_ERROR(WriteRandomCheckpoint(folder, options));
    return bench->Run("synthetic", absl::StrCat("Qwen3-30B-A3B FP8, ", layers, " layers"), folder);
  });
}

absl::Status Run() {
  const bool quick = absl::GetFlag(FLAGS_quick);
  std::printf("models: %s\n", MachineName().c_str());
  ModelsBench bench(quick ? 1 : 3);
  bench.report()->Add("read_bandwidth_gbps", "machine: memory read bandwidth, all cores", MeasureReadBandwidth(),
                      "GB/s");
  HGA_RETURN_IF_ERROR(RunCopy(absl::GetFlag(FLAGS_model), &bench));
  HGA_RETURN_IF_ERROR(RunSynthetic(quick ? 1 : 5, &bench));
  bench.AddWorst();
  HGA_RETURN_IF_ERROR(BenchTokenizer(absl::GetFlag(FLAGS_model), absl::GetFlag(FLAGS_scratch), quick ? 1 : 3,
                                     bench.report()));
  return WriteNumbers(*bench.report());
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  hga::ParseFlags(argc, argv);
  if (!absl::GetFlag(FLAGS_measure).empty()) return hga::Measure(absl::GetFlag(FLAGS_measure));
  return hga::ExitCode(hga::Run());
}
