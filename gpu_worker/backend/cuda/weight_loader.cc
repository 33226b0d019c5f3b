#include "gpu_worker/backend/cuda/weight_loader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/model/tensor_row.h"

namespace hga {
namespace {

// Large enough that copies run at the bus's speed; two of them are pinned.
constexpr size_t kBufferBytes = size_t{8} << 20;

bool IsF8(const TensorView& m) { return m.type == TensorType::kF8E4M3; }
size_t RowBytes(const TensorView& m) { return size_t{m.cols} * (IsF8(m) ? 1 : 2); }
uint64_t ScaleBytes(const TensorView& m) {
  return IsF8(m) ? uint64_t{TilesAlong(m.rows)} * TilesAlong(m.cols) * sizeof(float) : 0;
}

}  // namespace

uint64_t MatrixDeviceBytes(const TensorView& m, uint64_t count) {
  return DeviceBytes(count * m.rows * RowBytes(m)) + DeviceBytes(count * ScaleBytes(m));
}

uint64_t VectorDeviceBytes(const TensorView& v) { return v.present() ? DeviceBytes(v.cols * sizeof(float)) : 0; }

absl::StatusOr<std::unique_ptr<WeightLoader>> WeightLoader::Create(Device* device, DeviceMemory* memory) {
  std::unique_ptr<WeightLoader> loader(new WeightLoader(device, memory));
  for (int i = 0; i < 2; ++i) {
    HGA_ASSIGN_OR_RETURN(loader->buffers_[i], PinnedBuffer::Allocate(device, kBufferBytes));
    HGA_ASSIGN_OR_RETURN(loader->copied_[i], device->NewEvent());
  }
  return loader;
}

absl::StatusOr<uint8_t*> WeightLoader::NextBuffer() {
  next_ ^= 1;
  HGA_RETURN_IF_ERROR(device_->Synchronize(copied_[next_]));
  return buffers_[next_].as();
}

absl::Status WeightLoader::Copy(const void* from, size_t bytes, uint8_t* to) {
  for (size_t done = 0; done < bytes;) {
    const size_t now = std::min(bytes - done, kBufferBytes);
    HGA_ASSIGN_OR_RETURN(uint8_t* buffer, NextBuffer());
    std::memcpy(buffer, static_cast<const uint8_t*>(from) + done, now);
    HGA_RETURN_IF_ERROR(device_->CopyToDevice(DeviceStream::kCompute, to + done, buffer, now));
    HGA_RETURN_IF_ERROR(device_->Record(copied_[next_], DeviceStream::kCompute));
    done += now;
  }
  return absl::OkStatus();
}

absl::Status WeightLoader::CopyRows(const TensorView& m, uint8_t* to) {
  if (IsF8(m) || m.type == TensorType::kBF16) return Copy(m.data, m.rows * RowBytes(m), to);
  const size_t row_bytes = RowBytes(m);
  if (row_bytes > kBufferBytes) return absl::InvalidArgumentError(absl::StrCat("a matrix row of ", m.cols, " columns"));
  const uint32_t at_once = static_cast<uint32_t>(kBufferBytes / row_bytes);
  std::vector<float> row(m.cols);
  for (uint32_t first = 0; first < m.rows; first += at_once) {
    const uint32_t rows = std::min(at_once, m.rows - first);
    HGA_ASSIGN_OR_RETURN(uint8_t* buffer, NextBuffer());
    auto* out = reinterpret_cast<bf16*>(buffer);
    for (uint32_t r = 0; r < rows; ++r) {
      DequantizeTensorRow(m, first + r, row.data());
      for (const float x : row) *out++ = ToBf16(x);
    }
    HGA_RETURN_IF_ERROR(
        device_->CopyToDevice(DeviceStream::kCompute, to + first * row_bytes, buffer, rows * row_bytes));
    HGA_RETURN_IF_ERROR(device_->Record(copied_[next_], DeviceStream::kCompute));
  }
  return absl::OkStatus();
}

absl::StatusOr<LoadedMatrix> WeightLoader::Matrices(absl::Span<const TensorView> matrices) {
  const TensorView& first = matrices[0];
  const size_t bytes = first.rows * RowBytes(first), scale_bytes = ScaleBytes(first);
  LoadedMatrix loaded;
  HGA_ASSIGN_OR_RETURN(loaded.data, memory_->Allocate(DeviceUse::kWeights, bytes * matrices.size()));
  HGA_ASSIGN_OR_RETURN(loaded.scales, memory_->Allocate(DeviceUse::kWeights, scale_bytes * matrices.size()));
  for (size_t i = 0; i < matrices.size(); ++i) {
    const TensorView& m = matrices[i];
    if (IsF8(m) != IsF8(first) || m.rows != first.rows || m.cols != first.cols) {
      return absl::InvalidArgumentError("the experts of a layer differ in type or shape");
    }
    HGA_RETURN_IF_ERROR(CopyRows(m, loaded.data.as() + i * bytes));
    if (scale_bytes > 0) HGA_RETURN_IF_ERROR(Copy(m.tile_scales, scale_bytes, loaded.scales.as() + i * scale_bytes));
  }
  loaded.part.data = loaded.data.as();
  loaded.part.scales = loaded.scales.as<float>();
  loaded.part.type = IsF8(first) ? MatrixType::kF8E4M3 : MatrixType::kBf16;
  loaded.part.outputs = first.rows;
  return loaded;
}

absl::StatusOr<DeviceBuffer> WeightLoader::Vectors(absl::Span<const TensorView> vectors) {
  std::vector<float> all;
  for (const TensorView& v : vectors) {
    if (!v.present()) continue;
    all.resize(all.size() + v.cols);
    DequantizeTensorRow(v, 0, all.data() + all.size() - v.cols);
  }
  HGA_ASSIGN_OR_RETURN(DeviceBuffer buffer, memory_->Allocate(DeviceUse::kWeights, all.size() * sizeof(float)));
  HGA_RETURN_IF_ERROR(Copy(all.data(), all.size() * sizeof(float), buffer.as()));
  return buffer;
}

}  // namespace hga
