// How the bits of a KV head's token sketches are dealt out to its channels (decision 33).
//
// What a record leaves out of a key's channel costs a score that times what queries have in it. Both differ by orders
// of magnitude between the channels of a head, and stay the same over texts and positions. So a channel with much of
// both gets up to four of the head_dim bits of a token, and one with little none.
//
//   channel c, b bits   k'_c = centre_c + a * step_c * (u - (2^b - 1) / 2),   u: b bits, a: the token's scale
//
// As a sum over bits that is a * sum of +-step_c * 2^level / 2: a score is again a sum of as many signed weights as the
// head has channels, which the same tables hold as with one bit for each rotated channel.
#ifndef HGA_COMMON_KV_SKETCH_DEAL_H_
#define HGA_COMMON_KV_SKETCH_DEAL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/kv/geometry.h"

namespace hga {

// Mean squares of a channel in quarters of an octave: about 2^((log - 128) / 4).
struct ChannelEnergy {
  uint8_t query = 0;  // of queries
  uint8_t key = 0;    // of keys' differences to their chunk's centre
};
uint8_t EnergyLog(double mean_square);  // nearest, at the ends of the range what lies beyond, or is no number

// Channels of a head whose extents help to rank chunks (SketchExtents in sketch.h).
inline constexpr uint32_t kWideChannels = 8;
// Of a chunk: up in each of them, then down.
inline constexpr uint32_t kExtents = 2 * kWideChannels;

struct SketchDeal {
  struct Bit {
    uint8_t channel = 0;
    uint8_t level = 0;  // 0: the lowest
    float weight = 0;   // step * 2^level / 2 of the channel
  };
  std::vector<Bit> bits;          // [head_dim] what the bits of a record are, in order
  std::vector<uint8_t> count;     // [head_dim] bits of a channel
  std::vector<float> std_of;      // [head_dim] standard deviation of a channel's keys
  std::vector<float> step;        // [head_dim] of a channel
  std::vector<float> left;        // [head_dim] variance that a token of a = 1 leaves out
  std::vector<uint8_t> wide;      // [kWideChannels] channels where queries and keys have most
  struct WideBit {
    uint8_t bit = 0;              // of `bits`
    uint8_t wide = 0;             // its channel's place in `wide`
  };
  std::vector<WideBit> wide_bits;
};

// energies: [head_dim], at most 256. The same on every machine.
SketchDeal DealBits(const std::vector<ChannelEnergy>& energies);

// Of all layers and KV heads of a model. Constant.
class SketchPlan {
 public:
  // energies: [layers][kv_heads][head_dim] of two bytes, query and key. INVALID_ARGUMENT: another size.
  static absl::StatusOr<SketchPlan> Create(const KvGeometry& g, absl::string_view energies);

  const SketchDeal& deal(uint32_t layer, uint32_t kv_head) const { return deals_[layer * kv_heads_ + kv_head]; }
  // 16 hexadecimal digits, of the energies.
  const std::string& id() const { return id_; }
  const std::string& energies() const { return energies_; }

 private:
  uint32_t kv_heads_ = 0;
  std::string energies_, id_;
  std::vector<SketchDeal> deals_;
};

}  // namespace hga

#endif  // HGA_COMMON_KV_SKETCH_DEAL_H_
