// The threads of the CPU backend. A step is made of hundreds of parts, between which router, gRPC and client want
// a core too: it runs on helpers. Only a step that calls oneDNN runs on OpenMP's team, which both share, so that
// nothing is oversubscribed; that team waits for its slowest thread after each part, and polls for milliseconds
// meanwhile.
#ifndef HGA_GPU_WORKER_BACKEND_CPU_WORKERS_H_
#define HGA_GPU_WORKER_BACKEND_CPU_WORKERS_H_

#include <atomic>
#include <cstdint>
#include <vector>

#include "common/base/helpers.h"

namespace hga {

class Workers {
 public:
  using Work = Helpers::Work;

  // threads: 1 or more, the caller's among them.
  explicit Workers(uint32_t threads) : helpers_(threads), shares_(helpers_.threads()) {}

  uint32_t threads() const { return helpers_.threads(); }
  // Which team the calls of the calling thread's step go to.
  void BeginStep(bool with_onednn);
  // As Helpers::Run.
  void Run(uint32_t count, Work work);
  // The same, but each thread takes neighbouring items as long as its share of them has any, then what is left of the
  // others': for items that stream neighbouring memory.
  void RunNeighbours(uint32_t count, Work work);
  // As Run for the rows of a batch, by the caller alone if they are too few to be worth sharing out.
  void RunRows(uint32_t rows, Work work);

 private:
  struct alignas(64) Share {
    std::atomic<uint32_t> next{0};
    uint32_t end = 0;
  };

  Helpers helpers_;
  std::vector<Share> shares_;  // of the call at hand, one for each thread
  bool with_onednn_ = false;
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CPU_WORKERS_H_
