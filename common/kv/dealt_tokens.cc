#include "common/kv/dealt_tokens.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "common/kv/dealt_tokens.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace hga {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Levels lie best at so many standard deviations of the channel, for a token that is as long as the others.
void FindScalesSimd(const SketchDeal& deal, DealtTokens* tokens) {
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> df;
  const auto head_dim = static_cast<uint32_t>(deal.count.size());
  const auto coded = static_cast<double>(head_dim - std::count(deal.count.begin(), deal.count.end(), 0));
  for (uint32_t t = 0; t < kSketchTokens; t += hn::Lanes(d)) {
    auto length = hn::Zero(d);
    for (uint32_t c = 0; c < head_dim; ++c) {
      if (deal.count[c] == 0) continue;
      const auto y = hn::PromoteTo(d, hn::LoadU(df, &tokens->differences[c * kSketchTokens + t]));
      length = hn::Add(length, hn::Div(hn::Mul(y, y), hn::Set(d, double{deal.std_of[c]} * deal.std_of[c])));
    }
    hn::StoreU(hn::Sqrt(hn::Div(length, hn::Set(d, std::max(coded, 1.0)))), d, tokens->scale + t);
  }
}

void FindLevelsSimd(const SketchDeal& deal, DealtTokens* tokens) {
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> df;
  const hn::Rebind<int32_t, decltype(d)> di;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const auto head_dim = static_cast<uint32_t>(deal.count.size());
  for (uint32_t t = 0; t < kSketchTokens; t += hn::Lanes(d)) {
    const auto scale = hn::LoadU(d, tokens->scale + t);
    auto product = hn::Zero(d), square = hn::Zero(d);
    for (uint32_t c = 0; c < head_dim; ++c) {
      if (deal.count[c] == 0) continue;
      const auto half = hn::Set(d, 1 << (deal.count[c] - 1)), of_channel = hn::Set(d, deal.step[c]);
      const auto y = hn::PromoteTo(d, hn::LoadU(df, &tokens->differences[c * kSketchTokens + t]));
      const auto step = hn::Mul(scale, of_channel);
      const auto at = hn::Floor(hn::Div(y, step));
      const auto within = hn::Min(hn::Max(at, hn::Neg(half)), hn::Sub(half, hn::Set(d, 1.0)));
      const auto level = hn::IfThenElseZero(hn::Gt(step, hn::Zero(d)), within);
      hn::StoreU(hn::DemoteTo(d8, hn::DemoteTo(di, hn::Add(level, half))), d8, &tokens->levels[c * kSketchTokens + t]);
      const auto read = hn::Mul(hn::Add(level, hn::Set(d, 0.5)), of_channel);
      product = hn::Add(product, hn::Mul(y, read));
      square = hn::Add(square, hn::Mul(read, read));
    }
    hn::StoreU(product, d, tokens->product + t);
    hn::StoreU(square, d, tokens->square + t);
  }
}

void WriteDealtSignsSimd(const SketchDeal& deal, const DealtTokens& tokens, uint8_t* signs) {
  const hn::CappedTag<uint8_t, 32> d;
  const auto head_dim = static_cast<uint32_t>(deal.count.size());
  const auto bit_where = [&](const uint8_t* levels, uint32_t level, uint32_t bit) HWY_ATTR {
    const auto is_set = hn::And(hn::LoadU(d, levels), hn::Set(d, static_cast<uint8_t>(1 << level)));
    return hn::IfThenElseZero(hn::Ne(is_set, hn::Zero(d)), hn::Set(d, static_cast<uint8_t>(1 << bit)));
  };
  for (uint32_t row = 0; row < head_dim / 4; ++row, signs += 32) {
    for (uint32_t p = 0; p < 32; p += hn::Lanes(d)) {
      auto bytes = hn::Zero(d);
      for (uint32_t b = 0; b < 4; ++b) {
        const SketchDeal::Bit& bit = deal.bits[4 * row + b];
        const uint8_t* levels = &tokens.levels[bit.channel * size_t{kSketchTokens} + p];
        bytes = hn::Or(bytes, hn::Or(bit_where(levels, bit.level, b), bit_where(levels + 32, bit.level, b + 4)));
      }
      hn::StoreU(bytes, d, signs + p);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hga
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hga {

HWY_EXPORT(FindScalesSimd);
HWY_EXPORT(FindLevelsSimd);
HWY_EXPORT(WriteDealtSignsSimd);

void DealTokens(const SketchDeal& deal, DealtTokens* tokens) {
  tokens->levels.resize(deal.count.size() * kSketchTokens);
  HWY_DYNAMIC_DISPATCH(FindScalesSimd)(deal, tokens);
  HWY_DYNAMIC_DISPATCH(FindLevelsSimd)(deal, tokens);
}

void WriteDealtSigns(const SketchDeal& deal, const DealtTokens& tokens, uint8_t* signs) {
  HWY_DYNAMIC_DISPATCH(WriteDealtSignsSimd)(deal, tokens, signs);
}

}  // namespace hga
#endif  // HWY_ONCE
