// Logits of the CUDA backend: all of them, or the best picked on the device.
#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "gpu_worker/backend/cuda/cuda_backend.h"
#include "gpu_worker/backend/cuda/kernels/shared_layout.h"

namespace hga {

absl::Status CudaBackend::ForLogits(const std::function<absl::Status(uint32_t n)>& use) {
  std::vector<uint32_t> wanted;
  for (uint32_t r = 0; r < rows(); ++r) {
    if (rows_[r].want_logits) wanted.push_back(r);
  }
  for (size_t at = 0; at < wanted.size(); at += kLogitRows) {
    const auto n = static_cast<uint32_t>(std::min<size_t>(kLogitRows, wanted.size() - at));
    std::copy_n(wanted.begin() + at, n, take_.as<uint32_t>());
    HGA_RETURN_IF_ERROR(
        device_->CopyToDevice(DeviceStream::kCompute, workspace_.take, take_.as(), n * sizeof(uint32_t)));
    HGA_RETURN_IF_ERROR(Norm(output_norm_, n, true, workspace_.take));
    HGA_RETURN_IF_ERROR(output_.ApplyExactly(device_.get(), workspace_.normed, n, workspace_.logits));
    HGA_RETURN_IF_ERROR(use(n));
  }
  return absl::OkStatus();
}

absl::Status CudaBackend::Logits(std::vector<float>* logits) {
  logits->clear();
  return ForLogits([&](uint32_t n) {
    const size_t count = size_t{n} * config_.vocab_size;
    HGA_RETURN_IF_ERROR(
        device_->CopyToHost(DeviceStream::kCompute, logits_.as(), workspace_.logits, count * sizeof(float)));
    HGA_RETURN_IF_ERROR(device_->Synchronize(DeviceStream::kCompute));
    logits->insert(logits->end(), logits_.as<float>(), logits_.as<float>() + count);
    return absl::OkStatus();
  });
}

// Of the logits in the workspace; top: [rows][count] on the device.
absl::Status CudaBackend::PickTop(uint32_t n, uint32_t count, const TokenLogit** top) {
  TopLogitsArgs args{workspace_.logits, nullptr, workspace_.top, config_.vocab_size, count};
  for (;;) {
    const uint32_t slices = (args.count + kTopSlice - 1) / kTopSlice;
    HGA_RETURN_IF_ERROR(device_->Launch(DeviceStream::kCompute, {slices, n, kTopThreads, kTopSharedBytes}, args));
    *top = args.out;
    if (slices == 1) return absl::OkStatus();
    args.logits = nullptr;
    args.candidates = args.out;
    args.out = args.out == workspace_.top ? workspace_.top_of_top : workspace_.top;
    args.count = slices * count;
  }
}

// The logits in the workspace, in place.
absl::Status CudaBackend::Penalize(absl::Span<const TopRow> rows) {
  bool any = false;
  for (const TopRow& row : rows) any |= row.penalty != 1;
  if (!any) return absl::OkStatus();
  const size_t words = (config_.vocab_size + size_t{63}) / 64;
  for (size_t r = 0; r < rows.size(); ++r) {
    row_floats_.as<float>()[r] = rows[r].penalty;
    if (rows[r].penalty != 1) std::copy_n(rows[r].seen.begin(), words, seen_.as<uint64_t>() + r * words);
  }
  HGA_RETURN_IF_ERROR(device_->CopyToDevice(DeviceStream::kCompute, workspace_.seen, seen_.as(),
                                            rows.size() * words * sizeof(uint64_t)));
  HGA_RETURN_IF_ERROR(device_->CopyToDevice(DeviceStream::kCompute, workspace_.penalties, row_floats_.as(),
                                            rows.size() * sizeof(float)));
  return device_->Launch(
      DeviceStream::kCompute,
      {(config_.vocab_size + kTopSlice - 1) / kTopSlice, static_cast<uint32_t>(rows.size()), kTopThreads, 0},
      PenalizeArgs{workspace_.logits, workspace_.seen, workspace_.penalties, config_.vocab_size});
}

// Of each row's slices, into masses_.
absl::Status CudaBackend::SumMasses(absl::Span<const TopRow> rows, const TokenLogit* top, uint32_t keep) {
  float* temperatures = row_floats_.as<float>() + kLogitRows;
  for (size_t r = 0; r < rows.size(); ++r) temperatures[r] = rows[r].temperature;
  const uint32_t slices = (config_.vocab_size + kTopSlice - 1) / kTopSlice, n = static_cast<uint32_t>(rows.size());
  HGA_RETURN_IF_ERROR(
      device_->CopyToDevice(DeviceStream::kCompute, workspace_.temperatures, temperatures, n * sizeof(float)));
  HGA_RETURN_IF_ERROR(device_->Launch(DeviceStream::kCompute, {slices, n, kTopThreads, kLogitMassSharedBytes},
                                      LogitMassArgs{workspace_.logits, top, workspace_.temperatures,
                                                    workspace_.masses, config_.vocab_size, keep}));
  return device_->CopyToHost(DeviceStream::kCompute, masses_.as(), workspace_.masses,
                             size_t{n} * slices * sizeof(uint64_t));
}

absl::Status CudaBackend::TopLogits(uint32_t count, absl::Span<const TopRow> all_rows, std::vector<TokenLogit>* top,
                                    std::vector<uint64_t>* masses) {
  if (count == 0 || count > kMaxTopLogits) {
    return absl::InvalidArgumentError(absl::StrCat("the best ", count, " of a row, must be 1 to ", kMaxTopLogits));
  }
  count = std::min(count, config_.vocab_size);
  top->clear();
  masses->clear();
  const size_t slices = (config_.vocab_size + kTopSlice - 1) / kTopSlice;
  return ForLogits([&](uint32_t n) {
    const auto rows = all_rows.empty() ? all_rows : all_rows.subspan(masses->size(), n);
    HGA_RETURN_IF_ERROR(Penalize(rows));
    const TokenLogit* picked = nullptr;
    HGA_RETURN_IF_ERROR(PickTop(n, count, &picked));
    bool sum = false;
    for (const TopRow& row : rows) sum |= row.temperature > 0;
    if (sum) HGA_RETURN_IF_ERROR(SumMasses(rows, picked, count));
    HGA_RETURN_IF_ERROR(
        device_->CopyToHost(DeviceStream::kCompute, top_.as(), picked, size_t{n} * count * sizeof(TokenLogit)));
    HGA_RETURN_IF_ERROR(device_->Synchronize(DeviceStream::kCompute));
    top->insert(top->end(), top_.as<TokenLogit>(), top_.as<TokenLogit>() + size_t{n} * count);
    for (uint32_t r = 0; r < n; ++r) {
      const auto* of_slices = masses_.as<uint64_t>() + r * slices;
      masses->push_back(sum ? std::accumulate(of_slices, of_slices + slices, uint64_t{0}) : 0);
    }
    return absl::OkStatus();
  });
}

}  // namespace hga
