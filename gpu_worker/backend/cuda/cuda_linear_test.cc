// Products with FP8 weights on a device that multiplies FP8 with block scales, and on one that only says so.
#include "gpu_worker/backend/cuda/cuda_linear.h"

#include <cmath>
#include <cstring>
#include <random>

#include "gpu_worker/backend/cuda/f8_probe.h"
#include "gpu_worker/backend/cuda/kernels/dialect.h"
#include "gpu_worker/backend/cuda/simulated_device.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint32_t kCols = 512;

struct F8Matrix {
  F8Matrix(uint32_t rows, uint32_t seed) : data(size_t{rows} * kCols), scales((rows + 127) / 128 * kCols / 128) {
    std::mt19937 random(seed);
    for (uint8_t& x : data) x = static_cast<uint8_t>((random() & 0x80) | (4 + random() % 4) << 3 | (random() & 7));
    for (float& x : scales) x = 0.1f + static_cast<float>(random() % 10) / 10;
    view = {TensorType::kF8E4M3, rows, kCols, data.data(), scales.data()};
  }
  std::vector<uint8_t> data;
  std::vector<float> scales;
  TensorView view;
};

class CudaLinearTest : public testing::Test {
 protected:
  void Make(SimulatedF8Gemm f8_gemm) {
    SimulatedDeviceOptions options;
    options.f8_gemm = f8_gemm;
    options.seed = 5;
    device_ = std::make_unique<SimulatedDevice>(options);
    memory_ = std::make_unique<DeviceMemory>(device_.get(), options.bytes);
  }
  template <typename T>
  T* OnDevice(size_t count) {
    buffers_.push_back(*memory_->Allocate(DeviceUse::kWorkspace, count * sizeof(T)));
    return buffers_.back().as<T>();
  }

  // The same rows by both ways: y [rows][outputs].
  std::vector<float> Apply(uint32_t rows, bool as_f8) {
    auto loader = WeightLoader::Create(device_.get(), memory_.get());
    EXPECT_TRUE(loader.ok());
    const auto linear = CudaLinear::Create(loader->get(), {q_.view, k_.view});
    EXPECT_TRUE(linear.ok());
    GemmScratch scratch;
    scratch.rounded_weights = OnDevice<bf16>(CudaLinear::RoundedBytes({q_.view, k_.view}) / sizeof(bf16));
    if (as_f8) {
      scratch.f8_rows = 96;
      scratch.f8 = OnDevice<uint8_t>(scratch.f8_rows * CudaLinear::F8Cols({q_.view, k_.view}));
      scratch.f8_scales = OnDevice<float>(scratch.f8_rows * kCols / kF8Group);
    }
    PinnedBuffer host = *PinnedBuffer::Allocate(device_.get(), 1 << 20);
    std::mt19937 random(rows);
    std::normal_distribution<float> normal;
    for (uint32_t i = 0; i < rows * kCols; ++i) host.as<bf16>()[i] = ToBf16(normal(random) * (1 + i / kCols % 7 * 5));
    auto* x = OnDevice<bf16>(96 * kCols);
    auto* y = OnDevice<float>(96 * linear->outputs());
    EXPECT_TRUE(device_->CopyToDevice(DeviceStream::kCompute, x, host.as(), rows * kCols * sizeof(bf16)).ok());
    EXPECT_TRUE(device_->Synchronize(DeviceStream::kCompute).ok());
    EXPECT_TRUE(linear->Apply(device_.get(), scratch, {nullptr, x}, rows, y).ok());
    const size_t count = size_t{rows} * linear->outputs();
    EXPECT_TRUE(device_->CopyToHost(DeviceStream::kCompute, host.as(), y, count * sizeof(float)).ok());
    EXPECT_TRUE(device_->Synchronize(DeviceStream::kCompute).ok());
    return {host.as<float>(), host.as<float>() + count};
  }

  const F8Matrix q_{144, 1}, k_{32, 2};
  std::unique_ptr<SimulatedDevice> device_;
  std::unique_ptr<DeviceMemory> memory_;
  std::vector<DeviceBuffer> buffers_;
};

TEST_F(CudaLinearTest, F8WithBlockScalesIsCloseToBf16) {
  Make(SimulatedF8Gemm::kRight);
  for (const uint32_t rows : {9u, 16u, 65u, 96u}) {
    const uint64_t before = device_->f8_gemms();
    const std::vector<float> f8 = Apply(rows, true);
    EXPECT_EQ(device_->f8_gemms() - before, 2u);
    const std::vector<float> rounded = Apply(rows, false);
    double error = 0, size = 0;
    for (size_t i = 0; i < f8.size(); ++i) {
      error += std::pow(f8[i] - rounded[i], 2);
      size += std::pow(rounded[i], 2);
    }
    // A value is rounded by up to 1/16 of it, by 2.5% in the mean; each row and group by a scale of its own.
    EXPECT_LT(std::sqrt(error / size), 0.04) << rows;
    EXPECT_GT(std::sqrt(error / size), 0.005) << rows;
  }
}

TEST_F(CudaLinearTest, TheProbeTellsRightFromWrong) {
  for (const SimulatedF8Gemm kind : {SimulatedF8Gemm::kRight, SimulatedF8Gemm::kRefused, SimulatedF8Gemm::kWrong}) {
    Make(kind);
    EXPECT_EQ(ProbeF8Gemm(device_.get(), OnDevice<uint8_t>(kF8ProbeBytes)).ok(), kind == SimulatedF8Gemm::kRight);
    buffers_.clear();
  }
}

struct GemvShape {
  uint32_t first, second, cols;  // outputs of an FP8 and a bf16 matrix side by side
};
class GemvTest : public testing::TestWithParam<GemvShape> {};

// Of all weights, scales and rows there is one sum, however warps share them out.
TEST_P(GemvTest, IsTheSumOfProducts) {
  const GemvShape shape = GetParam();
  const uint32_t cols = shape.cols, outputs = shape.first + shape.second, scale_cols = (cols + 127) / 128;
  std::mt19937 random(cols);
  std::vector<uint8_t> f8(size_t{shape.first} * cols);
  std::vector<float> scales((shape.first + 127) / 128 * scale_cols), x(size_t{kGemvRows} * cols);
  std::vector<bf16> rounded(size_t{shape.second} * cols);
  for (uint8_t& w : f8) w = static_cast<uint8_t>((random() & 0x80) | random() % 0x48);
  for (float& scale : scales) scale = 0.1f + static_cast<float>(random() % 10) / 10;
  for (bf16& w : rounded) w = ToBf16(static_cast<float>(random() % 1000) / 500 - 1);
  for (float& value : x) value = static_cast<float>(random() % 1000) / 500 - 1;
  const auto weight = [&](uint32_t output, uint32_t col) -> double {
    if (output >= shape.first) return ToFloat(rounded[size_t{output - shape.first} * cols + col]);
    return WidenF8(f8[size_t{output} * cols + col]) * scales[output / 128 * scale_cols + col / 128];
  };

  SimulatedDevice device{SimulatedDeviceOptions()};
  DeviceMemory memory(&device, SimulatedDeviceOptions().bytes);
  auto loader = WeightLoader::Create(&device, &memory);
  ASSERT_TRUE(loader.ok());
  const auto linear = CudaLinear::Create(
      loader->get(), {{TensorType::kF8E4M3, shape.first, cols, f8.data(), scales.data()},
                      {TensorType::kBF16, shape.second, cols, reinterpret_cast<const uint8_t*>(rounded.data())}});
  ASSERT_TRUE(linear.ok()) << linear.status();
  PinnedBuffer host = *PinnedBuffer::Allocate(&device, (x.size() + kGemvRows * outputs) * sizeof(float));
  std::memcpy(host.as(), x.data(), x.size() * sizeof(float));
  DeviceBuffer in = *memory.Allocate(DeviceUse::kWorkspace, x.size() * sizeof(float));
  DeviceBuffer out = *memory.Allocate(DeviceUse::kWorkspace, kGemvRows * outputs * sizeof(float));
  ASSERT_TRUE(device.CopyToDevice(DeviceStream::kCompute, in.as(), host.as(), x.size() * sizeof(float)).ok());
  for (const uint32_t rows : {1u, 3u, kGemvRows}) {
    ASSERT_TRUE(linear->Apply(&device, {}, {in.as<float>(), nullptr}, rows, out.as<float>()).ok());
    const size_t bytes = rows * outputs * sizeof(float);
    ASSERT_TRUE(device.CopyToHost(DeviceStream::kCompute, host.as(), out.as(), bytes).ok());
    ASSERT_TRUE(device.Synchronize(DeviceStream::kCompute).ok());
    for (uint32_t i = 0; i < rows * outputs; ++i) {
      double sum = 0, size = 0;
      for (uint32_t c = 0; c < cols; ++c) {
        const double product = weight(i % outputs, c) * x[size_t{i / outputs} * cols + c];
        sum += product;
        size += std::abs(product);
      }
      ASSERT_NEAR(host.as<float>()[i], sum, 1e-6 * size) << i;
    }
  }
}

// One, two and four warps to an output; blocks that two matrices share; columns that are no whole chunks or words.
INSTANTIATE_TEST_SUITE_P(Shapes, GemvTest,
                         testing::Values(GemvShape{2044, 20, 96}, GemvShape{1028, 6, 260}, GemvShape{10, 7, 300},
                                         GemvShape{130, 16, 130}, GemvShape{8, 8, 2308}, GemvShape{2, 3, 5}));

// Every FP8 number comes back, and what lies between two of them goes to the nearer one.
TEST(NarrowF8Test, RoundsToTheNearest) {
  for (uint32_t code = 0; code < 0x7f; ++code) {
    const float value = WidenF8(code);
    EXPECT_EQ(NarrowF8(value), code);
    EXPECT_EQ(NarrowF8(-value), code | 0x80);
    if (code == 0x7e) break;
    const float next = WidenF8(code + 1), middle = (value + next) / 2;
    EXPECT_EQ(NarrowF8(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(NarrowF8(std::nextafter(middle, 1e9f)), code + 1);
    EXPECT_EQ(NarrowF8(middle), code % 2 == 0 ? code : code + 1);
  }
  EXPECT_EQ(NarrowF8(1e9f), 0x7e);
  EXPECT_EQ(NarrowF8(-460.0f), 0xfe);
}

}  // namespace
}  // namespace hga
