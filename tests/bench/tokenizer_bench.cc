#include "tests/bench/tokenizer_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/gguf_tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/golden/tokenizer_lines.h"

namespace hga {
namespace {

namespace fs = std::filesystem;

constexpr size_t kTextBytes = 2 << 20;
constexpr char kScript[] = "tests/bench/tokenizer_reference.py";

struct Figures {
  double mb_per_s = 0;
  uint64_t hash = 0;  // of all ids
};

// Documents of one chapter each.
std::vector<std::string> EnglishTexts() {
  std::ifstream stream("deploy/documents/alice.txt");
  std::stringstream chapter;
  chapter << stream.rdbuf();
  const size_t bytes = std::max<size_t>(chapter.str().size(), 1);
  return std::vector<std::string>(kTextBytes / bytes + 1, chapter.str());
}

// Many scripts, code, emoji, control characters: short documents of 50 lines.
std::vector<std::string> MixedTexts() {
  std::vector<std::string> texts;
  size_t lines = 0;
  for (const std::string& line : TokenizerLines("tests/golden/tokenizers/pools.json")) {
    if (lines++ % 50 == 0) texts.emplace_back();
    texts.back() += line + "\n";
  }
  return texts;
}

absl::StatusOr<Figures> EncodeAll(const Tokenizer& tokenizer, const std::vector<std::string>& texts) {
  Figures figures;
  figures.hash = 0xcbf29ce484222325;
  size_t bytes = 0;
  double seconds = 0;
  for (const std::string& text : texts) {
    const auto start = std::chrono::steady_clock::now();
    HGA_ASSIGN_OR_RETURN(const auto ids, tokenizer.Encode(text, /*parse_special=*/true));
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    bytes += text.size();
    for (uint32_t id : ids) figures.hash = (figures.hash ^ id) * 0x100000001b3;
  }
  figures.mb_per_s = static_cast<double>(bytes) / 1e6 / seconds;
  return figures;
}

// NOT_FOUND: the script does not run here.
absl::StatusOr<Figures> EncodeByReference(const std::string& gguf, const std::string& texts) {
  const char* python = std::getenv("HGA_PYTHON");
  const std::string command = absl::StrCat("'", python == nullptr ? "python3" : python, "' ", kScript, " '", gguf,
                                           "' '", texts, "'");
  FILE* pipe = ::popen(command.c_str(), "r");
  if (pipe == nullptr) return absl::NotFoundError("popen failed");
  std::string output;
  char buffer[256];
  for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
  const int code = ::pclose(pipe);
  const auto json = nlohmann::json::parse(output, nullptr, false);
  if (code != 0 || !json.is_object()) return absl::NotFoundError(absl::StrCat(kScript, " failed"));
  return Figures{json["mb_per_s"].get<double>(), std::stoull(json["hash"].get<std::string>(), nullptr, 16)};
}

absl::Status BenchTexts(const Tokenizer& tokenizer, const std::string& name, const std::vector<std::string>& texts,
                        const std::string& gguf, const std::string& file, int repetitions, double* worst,
                        Report* report) {
  std::ofstream(file) << nlohmann::json(texts).dump();
  std::vector<double> ours, theirs;
  for (int i = 0; i < repetitions; ++i) {
    HGA_ASSIGN_OR_RETURN(const Figures here, EncodeAll(tokenizer, texts));
    ours.push_back(here.mb_per_s);
    const auto reference = EncodeByReference(gguf, file);
    if (!reference.ok()) continue;
    if (reference->hash != here.hash) {
      return absl::InternalError(absl::StrCat("tokenizer: other ids than the reference's on ", name, " text"));
    }
    theirs.push_back(reference->mb_per_s);
  }
  const double speed = Quantile(&ours, 0.5);
  report->Add("tokenizer_" + name + "_mbps", "tokenizer, " + name + " text, one thread", speed, "MB/s");
  if (theirs.empty()) return absl::OkStatus();
  const double reference = Quantile(&theirs, 0.5);
  report->Add("tokenizer_" + name + "_reference_mbps", "PyPI's tokenizers on the same", reference, "MB/s");
  *worst = *worst == 0 ? speed / reference : std::min(*worst, speed / reference);
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchTokenizer(const std::string& gguf, const std::string& scratch, int repetitions, Report* report) {
  HGA_ASSIGN_OR_RETURN(const auto file, GgufFile::Open(gguf));
  HGA_ASSIGN_OR_RETURN(const auto tokenizer, ReadGgufTokenizer(*file));
  const std::string texts = scratch + "/hga_tokenizer_texts.json";
  double worst = 0;
  absl::Status status;
  status.Update(BenchTexts(*tokenizer, "english", EnglishTexts(), gguf, texts, repetitions, &worst, report));
  status.Update(BenchTexts(*tokenizer, "mixed", MixedTexts(), gguf, texts, repetitions, &worst, report));
  std::error_code ignored;
  fs::remove(texts, ignored);
  if (worst > 0) {
    report->Add("tokenizer_ratio", "the lower of the two: speed over that of PyPI's tokenizers", worst, "");
  } else {
    std::printf("tokenizer: not compared; %s needs the PyPI packages tokenizers and gguf (HGA_PYTHON names a python3 "
                "that has them)\n", kScript);
  }
  return status;
}

}  // namespace hga
