#include "gpu_worker/backend/rope.h"

#include <algorithm>
#include <cmath>

namespace hga {
namespace {

constexpr double kTwoPi = 6.283185307179586;

double Llama3(const RopeScaling& s, double frequency) {
  const double wavelength = kTwoPi / frequency, context = s.original_context;
  if (wavelength > context / s.low_frequency_factor) return frequency / s.factor;
  if (wavelength < context / s.high_frequency_factor) return frequency;
  const double keep =
      (context / wavelength - s.low_frequency_factor) / (double{s.high_frequency_factor} - s.low_frequency_factor);
  return (1 - keep) * frequency / s.factor + keep * frequency;
}

// Number, not rounded, of the pair that turns `turns` times within the original context.
double YarnPair(const ModelConfig& c, double turns) {
  return c.rope_dims * std::log(c.rope_scaling.original_context / (turns * kTwoPi)) /
         (2 * std::log(static_cast<double>(c.rope_base)));
}

void Yarn(const ModelConfig& c, std::vector<double>* frequencies) {
  const double low = std::max(std::floor(YarnPair(c, c.rope_scaling.beta_fast)), 0.0);
  double high = std::min(std::ceil(YarnPair(c, c.rope_scaling.beta_slow)), c.rope_dims - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies->size(); ++i) {
    double& f = (*frequencies)[i];
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    f = f / c.rope_scaling.factor * stretched + f * (1 - stretched);
  }
}

}  // namespace

std::vector<double> RopeFrequencies(const ModelConfig& c) {
  std::vector<double> frequencies(c.rope_dims / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(static_cast<double>(c.rope_base), -2.0 * i / c.rope_dims);
  }
  const RopeScaling& s = c.rope_scaling;
  switch (s.kind) {
    case RopeScaling::Kind::kNone: break;
    case RopeScaling::Kind::kLinear:
      for (double& f : frequencies) f /= s.factor;
      break;
    case RopeScaling::Kind::kLlama3:
      for (double& f : frequencies) f = Llama3(s, f);
      break;
    case RopeScaling::Kind::kYarn: Yarn(c, &frequencies); break;
  }
  for (size_t i = 0; i < std::min(frequencies.size(), s.divisors.size()); ++i) frequencies[i] /= s.divisors[i];
  return frequencies;
}

double RopeMagnitude(const ModelConfig& c) {
  const RopeScaling& s = c.rope_scaling;
  if (s.kind != RopeScaling::Kind::kYarn) return 1;
  if (s.attention_factor > 0) return s.attention_factor;
  return s.factor > 1 ? 0.1 * std::log(static_cast<double>(s.factor)) + 1 : 1;
}

Rope::Rope(const ModelConfig& config)
    : adjacent_(config.rope_style == RopeStyle::kAdjacentPairs),
      magnitude_(RopeMagnitude(config)),
      frequency_(RopeFrequencies(config)),
      cos_(frequency_.size()),
      sin_(frequency_.size()) {}

void Rope::SetPosition(uint32_t position) {
  for (size_t i = 0; i < frequency_.size(); ++i) {
    cos_[i] = std::cos(position * frequency_[i]) * magnitude_;
    sin_[i] = std::sin(position * frequency_[i]) * magnitude_;
  }
}

}  // namespace hga
