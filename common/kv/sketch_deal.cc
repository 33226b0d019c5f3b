#include "common/kv/sketch_deal.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/kv/ids.h"

namespace hga {
namespace {

constexpr int kMostBits = 4;
// Of a normal distribution, by bits: the best step in standard deviations, and the variance left out (Max, 1960).
constexpr double kStep[kMostBits + 1] = {0, 1.596, 0.9957, 0.586, 0.335};
constexpr double kLeft[kMostBits + 1] = {1, 0.3634, 0.1175, 0.03454, 0.009497};
// 2^(i / 8): products and powers of two alone, which every machine computes alike.
constexpr double kEighths[8] = {1.0,
                                1.0905077326652577,
                                1.189207115002721,
                                1.2968395546510096,
                                1.4142135623730951,
                                1.5422108254079407,
                                1.681792830507429,
                                1.8340080864093424};

// 2^(eighths / 8)
double Power(int eighths) {
  const int whole = eighths >= 0 ? eighths / 8 : -((7 - eighths) / 8);
  return std::ldexp(kEighths[eighths - 8 * whole], whole);
}

double Energy(uint8_t log) { return Power(2 * (log - 128)); }

// The bits of each channel: one by one to where it takes away most of the scores' variance.
std::vector<uint8_t> CountBits(const std::vector<ChannelEnergy>& energies) {
  std::vector<uint8_t> count(energies.size());
  const auto gain = [&](size_t c) {
    if (count[c] == kMostBits) return 0.0;
    return Power(2 * (energies[c].query + energies[c].key - 256)) * (kLeft[count[c]] - kLeft[count[c] + 1]);
  };
  std::vector<double> gains;
  for (size_t c = 0; c < energies.size(); ++c) gains.push_back(gain(c));
  for (size_t given = 0; given < energies.size(); ++given) {
    const size_t best = std::max_element(gains.begin(), gains.end()) - gains.begin();
    ++count[best];
    gains[best] = gain(best);
  }
  return count;
}

// The heaviest bits go to different fours: a table's step is that of the heaviest four.
std::vector<SketchDeal::Bit> OrderBits(const std::vector<ChannelEnergy>& energies, const std::vector<uint8_t>& count) {
  std::vector<SketchDeal::Bit> sorted;
  for (size_t c = 0; c < count.size(); ++c) {
    for (uint8_t level = 0; level < count[c]; ++level) sorted.push_back({static_cast<uint8_t>(c), level, 0});
  }
  const auto weight = [&](const SketchDeal::Bit& bit) {
    const ChannelEnergy& e = energies[bit.channel];
    return std::ldexp(Power(e.query + e.key - 256) * kStep[count[bit.channel]], bit.level);
  };
  std::stable_sort(sorted.begin(), sorted.end(), [&](const auto& a, const auto& b) { return weight(a) > weight(b); });
  const size_t fours = sorted.size() / 4;
  std::vector<SketchDeal::Bit> bits(sorted.size());
  for (size_t rank = 0; rank < sorted.size(); ++rank) bits[rank % fours * 4 + rank / fours] = sorted[rank];
  return bits;
}

void FindWide(const std::vector<ChannelEnergy>& energies, SketchDeal* deal) {
  std::vector<uint8_t> channels(energies.size());
  std::iota(channels.begin(), channels.end(), uint8_t{0});
  const auto energy = [&](uint8_t c) { return energies[c].query + energies[c].key; };
  std::stable_sort(channels.begin(), channels.end(), [&](uint8_t a, uint8_t b) { return energy(a) > energy(b); });
  deal->wide.assign(channels.begin(), channels.begin() + kWideChannels);
  for (size_t i = 0; i < deal->bits.size(); ++i) {
    const auto at = std::find(deal->wide.begin(), deal->wide.end(), deal->bits[i].channel);
    if (at == deal->wide.end()) continue;
    deal->wide_bits.push_back({static_cast<uint8_t>(i), static_cast<uint8_t>(at - deal->wide.begin())});
  }
}

}  // namespace

uint8_t EnergyLog(double mean_square) {
  if (!(mean_square > 0)) return 0;
  return static_cast<uint8_t>(std::lrint(std::clamp(4 * std::log2(mean_square) + 128, 0.0, 255.0)));
}

SketchDeal DealBits(const std::vector<ChannelEnergy>& energies) {
  SketchDeal deal;
  deal.count = CountBits(energies);
  deal.bits = OrderBits(energies, deal.count);
  for (size_t c = 0; c < energies.size(); ++c) {
    deal.std_of.push_back(static_cast<float>(Power(energies[c].key - 128)));
    deal.step.push_back(static_cast<float>(Power(energies[c].key - 128) * kStep[deal.count[c]]));
    deal.left.push_back(static_cast<float>(Energy(energies[c].key) * kLeft[deal.count[c]]));
  }
  for (SketchDeal::Bit& bit : deal.bits) bit.weight = std::ldexp(deal.step[bit.channel] / 2, bit.level);
  FindWide(energies, &deal);
  return deal;
}

absl::StatusOr<SketchPlan> SketchPlan::Create(const KvGeometry& g, absl::string_view energies) {
  const size_t bytes = size_t{g.layers} * g.kv_heads * g.head_dim * 2;
  if (energies.size() != bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("channel energies of ", energies.size(), " bytes; this model has ", bytes));
  }
  SketchPlan plan;
  plan.kv_heads_ = g.kv_heads;
  plan.energies_ = std::string(energies);
  plan.id_ = absl::StrCat(absl::Hex(BlockChecksum(energies.data(), energies.size()), absl::kZeroPad16));
  std::vector<ChannelEnergy> of_head(g.head_dim);
  for (size_t at = 0; at < bytes; at += 2 * g.head_dim) {
    for (uint32_t c = 0; c < g.head_dim; ++c) {
      of_head[c].query = static_cast<uint8_t>(energies[at + 2 * c]);
      of_head[c].key = static_cast<uint8_t>(energies[at + 2 * c + 1]);
    }
    plan.deals_.push_back(DealBits(of_head));
  }
  return plan;
}

}  // namespace hga
