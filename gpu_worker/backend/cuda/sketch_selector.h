// Selects the keys that one token attends, on the device, from token sketches that lie there: the same keys as the
// router's Select (router/index/select.h), bit for bit.
#ifndef HGA_GPU_WORKER_BACKEND_CUDA_SKETCH_SELECTOR_H_
#define HGA_GPU_WORKER_BACKEND_CUDA_SKETCH_SELECTOR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/kv/geometry.h"
#include "common/kv/route_message.h"
#include "common/kv/summary.h"
#include "gpu_worker/backend/cuda/device_memory.h"
#include "gpu_worker/backend/cuda/kernels/route_args.h"
#include "gpu_worker/backend/cuda/summary_pages.h"
#include "router/client/route_client.h"

namespace hga {

// Step thread only. Work goes to the kRoute stream, block after block.
class SketchSelector {
 public:
  // Blocks of one exchange.
  static constexpr uint32_t kBlocks = 8;

  // Whether records of the method are read here: token sketches.
  static bool Reads(const SummaryMethod& method) { return method.form == SummaryForm::kSketch; }
  // Device memory for histories of up to `chunks` chunks, in bytes. Nothing else is allocated there. method: one that
  // is read, with or without its plan; Create's must outlive the selector.
  static uint64_t Bytes(const KvGeometry& geometry, const SummaryMethod& method, uint32_t chunks);
  static absl::StatusOr<std::unique_ptr<SketchSelector>> Create(Device* device, DeviceMemory* memory,
                                                                const KvGeometry& geometry,
                                                                const SummaryMethod& method, uint32_t chunks);

  // Brings what the method's plan says. method: as that of Create, ready for use. Before Start; cheap if it is the same
  // as before.
  absl::Status Use(const SummaryMethod& method);
  // Whether the block is of a kind and a size that is selected here: one token, with no more asked for than keys, and
  // what it attends anyway known.
  bool Takes(const RouteBlock& block, const SelectRules& rules) const;
  // Whether it needs the device at all: else Finish knows the answer.
  bool NeedsDevice(const RouteBlock& block) const;
  // Where the pages of the block's range go before Start: [chunks of the range]. number: below kBlocks.
  uint32_t* pages_of(uint32_t number);
  // The block's pointers are not used after it. Only if NeedsDevice.
  absl::Status Start(uint32_t number, uint32_t layer, const RouteBlock& block, const SelectRules& rules,
                     const SummaryPages& pages);
  // Once kRoute has done it. heads: resized to [kv_heads].
  void Finish(uint32_t number, const RouteBlock& block, std::vector<HeadSelection>* heads) const;

 private:
  // On the device; of `chunks` chunks at most.
  struct Buffers {
    float* flips;       // where bits are not dealt out
    RouteDealt* dealt;  // where they are: [layers][kv_heads][head_dim]
    int16_t* rounded;
    float *rounded_steps, *step, *spread, *parts;
    uint32_t *zero, *shift, *entries;
    float* coarse;
    uint16_t* weights;
    float* shares;
    RouteCounts* counts;    // [kv_heads]
    uint32_t* part_counts;  // [kv_heads][parts of the most chunks][kRouteLastBins]
    uint8_t *in, *out;  // [kBlocks][in_bytes], [kBlocks][out_bytes]
  };
  // What a block's answer is made of, one behind the other.
  struct Answer {
    uint64_t* masks;   // [kv_heads][most]
    uint32_t* chunks;  // [kv_heads][most]
    uint32_t* count;   // [kv_heads]
  };
  // The sizes that the kernels of one block share.
  struct Range {
    uint32_t chunks, skipped;  // of the range; keys of the first one that lie before it
    uint32_t most;             // chunks whose keys are scored
    uint32_t groups, wanted;   // that keys are taken of together: KV heads, or all of them; keys of each
    float least;               // share of a key
    size_t coarse_stride, stride;
  };

  SketchSelector(Device* device, const KvGeometry& geometry, const SummaryMethod& method, uint32_t chunks)
      : device_(device), geometry_(geometry), method_(method), chunks_(chunks) {}
  template <typename Place>
  static void ForEachBuffer(const KvGeometry& g, const SummaryMethod& method, uint32_t chunks, Buffers* b,
                            const Place& place);
  static uint64_t InBytes(const KvGeometry& g, uint32_t chunks);
  static uint64_t OutBytes(const KvGeometry& g, uint32_t most);
  static uint32_t MostKept(uint32_t chunks);
  bool KnowsAttended(const RouteBlock& block) const;
  Answer AnswerAt(uint8_t* out, uint32_t most) const;
  Range RangeOf(const RouteBlock& block, const SelectRules& rules) const;
  uint64_t KeptChunks(const RouteBlock& block, const SelectRules& rules) const;
  RouteRecords RecordsOf(uint32_t number, uint32_t layer, const SummaryPages& pages) const;
  absl::Status CopyIn(uint32_t number, const RouteBlock& block, uint32_t chunks);
  absl::Status LaunchTables(uint32_t number, uint32_t layer);
  absl::Status LaunchCoarse(const Range& r, uint32_t layer, const RouteRecords& records, const float* attended);
  absl::Status LaunchShares(const Range& r, const RouteKept& kept, uint32_t each, size_t stride, bool count);
  absl::Status LaunchChoose(const Range& r, const Answer& answer);
  absl::Status LaunchFine(const Range& r, const RouteRecords& records, const RouteKept& kept, const float* attended);
  absl::Status LaunchTake(const Range& r, uint64_t* masks);

  Device* const device_;
  const KvGeometry geometry_;
  const SummaryMethod& method_;
  const uint32_t chunks_;
  std::shared_ptr<const SketchPlan> plan_;  // that lies on the device
  DeviceBuffer memory_;
  Buffers buffers_{};
  PinnedBuffer in_, out_;
  std::vector<uint32_t> most_;  // [kBlocks], of the answers under way; 0: all chunks are kept
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_BACKEND_CUDA_SKETCH_SELECTOR_H_
