#include "client/bench/bench_options.h"

#include <random>
#include <set>

#include "absl/strings/str_cat.h"

namespace hga {
namespace {

// So that a resume finds a whole chunk of 64 tokens, besides the token that is always computed.
constexpr uint32_t kMinDepth = 65;
constexpr size_t kMaxDepths = 64;

}  // namespace

absl::Status BenchOptions::Validate() const {
  if (depths.empty() || depths.size() > kMaxDepths) {
    return absl::InvalidArgumentError(absl::StrCat("--depths takes 1 to ", kMaxDepths, " numbers"));
  }
  for (const uint32_t depth : depths) {
    if (depth < kMinDepth) {
      return absl::InvalidArgumentError(absl::StrCat("--depths ", depth, ": ", kMinDepth, " is the least"));
    }
  }
  // Figures are named by depth and mode.
  if (std::set<uint32_t>(depths.begin(), depths.end()).size() != depths.size()) {
    return absl::InvalidArgumentError("--depths has the same number twice");
  }
  if (modes.empty() || std::set<std::string>(modes.begin(), modes.end()).size() != modes.size()) {
    return absl::InvalidArgumentError("--modes takes routed, dense, or both");
  }
  return absl::OkStatus();
}

absl::Status CheckDepths(const BenchOptions& options, uint32_t context_tokens) {
  for (const uint32_t depth : options.depths) {
    const uint64_t needed = uint64_t{depth} + options.steps() + 1;  // the first token comes with the prompt
    if (needed <= context_tokens) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "--depths ", depth, " and an answer of ", options.steps() + 1, " tokens need ", needed,
        " tokens; the model's context holds ", context_tokens));
  }
  return absl::OkStatus();
}

std::vector<uint32_t> RandomTokens(uint64_t seed, uint32_t count, uint32_t vocab_size) {
  std::mt19937_64 random(seed);
  std::vector<uint32_t> tokens(count);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(random() % vocab_size);
  return tokens;
}

}  // namespace hga
