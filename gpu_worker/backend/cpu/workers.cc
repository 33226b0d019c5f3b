#include "gpu_worker/backend/cpu/workers.h"

#include <omp.h>

namespace hga {
namespace {

constexpr uint32_t kFewRows = 8;

}  // namespace

void Workers::BeginStep(bool with_onednn) {
  with_onednn_ = with_onednn;
  // OpenMP keeps the number for each calling thread: the step's need not be the one that created the backend.
  omp_set_num_threads(static_cast<int>(threads()));
}

void Workers::Run(uint32_t count, Work work) {
  if (!with_onednn_) {
    helpers_.Run(count, work);
    return;
  }
  const int items = static_cast<int>(count);
#pragma omp parallel for schedule(dynamic) if (items > 1)
  for (int i = 0; i < items; ++i) work(static_cast<uint32_t>(i), static_cast<uint32_t>(omp_get_thread_num()));
}

void Workers::RunNeighbours(uint32_t count, Work work) {
  const uint32_t all = threads();
  for (uint32_t i = 0; i < all; ++i) {
    shares_[i].next.store(static_cast<uint32_t>(uint64_t{count} * i / all), std::memory_order_relaxed);
    shares_[i].end = static_cast<uint32_t>(uint64_t{count} * (i + 1) / all);
  }
  Run(all, [&](uint32_t own, uint32_t thread) {
    for (uint32_t i = 0; i < all; ++i) {
      Share& share = shares_[(own + i) % all];
      for (uint32_t item; (item = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) work(item, thread);
    }
  });
}

void Workers::RunRows(uint32_t rows, Work work) {
  if (rows > kFewRows) {
    Run(rows, work);
  } else {
    for (uint32_t row = 0; row < rows; ++row) work(row, 0);
  }
}

}  // namespace hga
