// The threads of the CPU backend. A prefill step runs on OpenMP's team, which oneDNN shares, so that nothing is
// oversubscribed. A decode step is made of hundreds of parts of some 50 us each, between which the router, gRPC and the
// client want a core too: it runs on helpers.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_WORKERS_H_
#define HGA_GPU_WORKER_BACKEND_CPU_WORKERS_H_

#include <cstdint>

#include "common/base/helpers.h"

namespace hga {

class Workers {
 public:
  using Work = Helpers::Work;

  // threads: 1 or more, the caller's among them.
  explicit Workers(uint32_t threads) : helpers_(threads) {}

  uint32_t threads() const { return helpers_.threads(); }
  // Which team the calls of the calling thread's step go to.
  void BeginStep(bool decode);
  // As Helpers::Run.
  void Run(uint32_t count, Work work);
  // The same for the rows of a batch, by the caller alone if they are too few to be worth sharing out.
  void RunRows(uint32_t rows, Work work);

 private:
  Helpers helpers_;
  bool decode_ = false;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_WORKERS_H_
