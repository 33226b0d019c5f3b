// Fetches blocks from the store ahead of need, on a thread of its own.
#ifndef HGA_GPU_WORKER_ENGINE_EARLY_FETCH_H_
#define HGA_GPU_WORKER_ENGINE_EARLY_FETCH_H_

#include <cstdint>
#include <future>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/serial_executor.h"
#include "kv_store/client/kv_client.h"

namespace hga {

// Step thread only. One fetch is under way at most.
class EarlyFetch {
 public:
  struct Wanted {
    uint64_t sequence_id = 0;
    uint32_t chunk = 0;
    BlockName name;
  };
  struct Got {
    Wanted wanted;
    HeldBlock block;
    FoundIn found_in = FoundIn::kRam;
  };

  // store must outlive it.
  explicit EarlyFetch(KvClient* store) : store_(store) {}

  // Nothing must be under way. request_ids: see RequestScope.
  void Start(std::vector<Wanted> wanted, std::string request_ids);
  // Waits for what was started, if anything was, and returns what the store gave. What it refused, and why, is found
  // out again by whoever needs the block.
  std::vector<Got> Take();

 private:
  KvClient* const store_;
  std::vector<Wanted> wanted_;
  std::future<absl::StatusOr<std::vector<FetchedBlock>>> under_way_;
  SerialExecutor thread_{1};
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_EARLY_FETCH_H_
