#include "gpu_worker/backend/cuda/f8_probe.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/backend/cuda/device_memory.h"

namespace hga {
namespace {

constexpr uint32_t kRows = 32, kOutputs = 272, kCols = 512;
constexpr uint32_t kGroups = kCols / kF8Group, kTiles = (kOutputs + 127) / 128 * kGroups;

// As it lies on the device.
struct Operands {
  float x_scales[kGroups][kRows];
  float w_scales[kTiles];
  alignas(256) uint8_t x[kRows][kCols];
  alignas(256) uint8_t w[kOutputs][kCols];
  alignas(256) float y[kRows][kOutputs];
};
static_assert(sizeof(Operands) <= kF8ProbeBytes);

// 1, 1.5, 2 or 3, of either sign.
uint8_t Drawn(std::mt19937* random) {
  return static_cast<uint8_t>((0x38 + (*random)() % 4 * 4) | ((*random)() & 0x80));
}
float ValueOf(uint8_t f8) {
  const float magnitude = std::ldexp(1.0f + static_cast<float>(f8 & 7) / 8, (f8 >> 3 & 15) - 7);
  return (f8 & 0x80) != 0 ? -magnitude : magnitude;
}

void Fill(Operands* o) {
  std::mt19937 random(1);
  for (auto& row : o->x) {
    for (uint8_t& x : row) x = Drawn(&random);
  }
  for (auto& row : o->w) {
    for (uint8_t& w : row) w = Drawn(&random);
  }
  for (uint32_t g = 0; g < kGroups; ++g) {
    for (uint32_t r = 0; r < kRows; ++r) o->x_scales[g][r] = 0.5f + static_cast<float>(random() % 64) / 16;
  }
  for (float& scale : o->w_scales) scale = 0.5f + static_cast<float>(random() % 64) / 16;
}

float Expected(const Operands& o, uint32_t row, uint32_t output) {
  double sum = 0;
  for (uint32_t c = 0; c < kCols; ++c) {
    const uint32_t group = c / kF8Group;
    sum += double{ValueOf(o.x[row][c])} * ValueOf(o.w[output][c]) * o.x_scales[group][row] *
           o.w_scales[output / 128 * kGroups + group];
  }
  return static_cast<float>(sum);
}

absl::Status Compare(const Operands& o) {
  double error = 0, size = 0;
  for (uint32_t r = 0; r < kRows; ++r) {
    for (uint32_t i = 0; i < kOutputs; ++i) {
      const double expected = Expected(o, r, i);
      error += std::pow(o.y[r][i] - expected, 2);
      size += expected * expected;
    }
  }
  const double relative = std::sqrt(error / size);  // NaN is no success either
  if (relative < 0.01) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("a product of FP8 with block scales is wrong by ", relative));
}

}  // namespace

absl::Status ProbeF8Gemm(Device* device, uint8_t* memory) {
  HGA_ASSIGN_OR_RETURN(const PinnedBuffer pinned, PinnedBuffer::Allocate(device, sizeof(Operands)));
  auto* host = pinned.as<Operands>();
  auto* there = reinterpret_cast<Operands*>(memory);  // never followed here
  Fill(host);
  std::memset(host->y, 0, sizeof(host->y));
  HGA_RETURN_IF_ERROR(device->CopyToDevice(DeviceStream::kCompute, memory, host, sizeof(Operands)));
  HGA_RETURN_IF_ERROR(device->F8Gemm(DeviceStream::kCompute,
                                     {there->x[0], there->x_scales[0], there->w[0], there->w_scales, there->y[0], kRows,
                                      kOutputs, kCols, kOutputs}));
  HGA_RETURN_IF_ERROR(device->CopyToHost(DeviceStream::kCompute, host, memory, sizeof(Operands)));
  HGA_RETURN_IF_ERROR(device->Synchronize(DeviceStream::kCompute));
  return Compare(*host);
}

}  // namespace hga
