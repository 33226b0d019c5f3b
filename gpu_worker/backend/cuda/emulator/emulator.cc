#include "gpu_worker/backend/cuda/emulator/emulator.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#ifndef __x86_64__
#error "the emulator switches stacks in x86-64 assembly"
#endif

// Saves the callee's registers on the stack that is left, whose end goes to *save, and goes on with the other one.
extern "C" void hga_emulator_switch(void** save, void* load);
asm(R"(
.text
.globl hga_emulator_switch
.type hga_emulator_switch,@function
hga_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size hga_emulator_switch,.-hga_emulator_switch
)");

namespace hga {
namespace emulator {
namespace {

constexpr uint32_t kWarpLanes = 32;
constexpr size_t kStackBytes = 64 * 1024;
constexpr size_t kSharedAlignment = 128;

enum class Barrier : uint8_t { kNone, kBlock, kWarp, kExchange };

struct Fiber {
  void* stack_end = nullptr;  // where it goes on
  Place place;
  Barrier waits = Barrier::kNone;
  bool done = false;
  uint32_t exchanges = 0;
};

struct WarpState {
  uint32_t arrived = 0;
  uint64_t slots[2][kWarpLanes];  // taking turns: nobody is more than one exchange ahead
};

// One block at a time; reused, with its stacks.
class Machine {
 public:
  absl::Status Run(const LaunchShape& shape, uint64_t seed, void (*body)(const void*), const void* args);

  Fiber* current = nullptr;
  unsigned char* shared = nullptr;

  void Wait(Barrier barrier);
  WarpState& warp() { return warps_[current->place.thread.x / kWarpLanes]; }

 private:
  static void Enter();
  absl::Status RunBlock(uint64_t seed);
  void Start(Fiber* fiber, uint32_t thread);
  absl::Status Arrive(Barrier barrier, uint32_t first, uint32_t end, uint32_t* arrived);
  std::string Where() const { return absl::StrCat("block ", block_.x, ",", block_.y); }

  LaunchShape shape_;
  Dim block_;
  void (*body_)(const void*) = nullptr;
  const void* args_ = nullptr;
  void* scheduler_ = nullptr;
  uint32_t block_arrived_ = 0;
  std::vector<Fiber> fibers_;
  std::vector<WarpState> warps_;
  std::vector<std::unique_ptr<unsigned char[]>> stacks_;
  std::vector<unsigned char> shared_;
  std::vector<uint32_t> order_;
  std::mt19937_64 random_;
};

thread_local Machine machine;

void Machine::Enter() {
  Machine* m = &machine;
  m->body_(m->args_);
  m->current->done = true;
  void* unused;
  hga_emulator_switch(&unused, m->scheduler_);
}

void Machine::Start(Fiber* fiber, uint32_t thread) {
  *fiber = Fiber();
  fiber->place = {{thread, 0}, block_, {shape_.block, 1}, {shape_.grid_x, shape_.grid_y}};
  // As if it had been left by hga_emulator_switch: six registers, then where to return to, the stack then being aligned
  // as at a function's entry.
  auto* top =
      reinterpret_cast<uintptr_t*>((reinterpret_cast<uintptr_t>(stacks_[thread].get()) + kStackBytes) / 16 * 16);
  *--top = 0;
  *--top = reinterpret_cast<uintptr_t>(&Machine::Enter);
  for (int i = 0; i < 6; ++i) *--top = 0;
  fiber->stack_end = top;
}

void Machine::Wait(Barrier barrier) {
  Fiber* fiber = current;
  fiber->waits = barrier;
  hga_emulator_switch(&fiber->stack_end, scheduler_);
}

// A fiber of [first, end) has come to a barrier; lets them all go on once they are there.
absl::Status Machine::Arrive(Barrier barrier, uint32_t first, uint32_t end, uint32_t* arrived) {
  if (++*arrived < end - first) return absl::OkStatus();
  *arrived = 0;
  for (uint32_t i = first; i < end; ++i) {
    if (fibers_[i].waits != barrier) {
      return absl::InternalError(absl::StrCat("emulator: threads of ", Where(), " wait at different barriers"));
    }
    fibers_[i].waits = Barrier::kNone;
  }
  return absl::OkStatus();
}

absl::Status Machine::RunBlock(uint64_t seed) {
  std::fill(shared_.begin(), shared_.end(), 0xff);  // not a number, and far outside of anything
  block_arrived_ = 0;
  for (WarpState& w : warps_) w.arrived = 0;
  for (uint32_t i = 0; i < shape_.block; ++i) Start(&fibers_[i], i);
  uint32_t done = 0;
  while (done < shape_.block) {
    if (seed != 0) std::shuffle(order_.begin(), order_.end(), random_);
    bool moved = false;
    for (const uint32_t i : order_) {
      Fiber& fiber = fibers_[i];
      if (fiber.done || fiber.waits != Barrier::kNone) continue;
      moved = true;
      current = &fiber;
      hga_emulator_switch(&scheduler_, fiber.stack_end);
      const uint32_t warp = i / kWarpLanes;
      absl::Status status;
      if (fiber.done) {
        ++done;
      } else if (fiber.waits == Barrier::kBlock) {
        status = Arrive(Barrier::kBlock, 0, shape_.block, &block_arrived_);
      } else {
        status = Arrive(fiber.waits, warp * kWarpLanes, (warp + 1) * kWarpLanes, &warps_[warp].arrived);
      }
      if (!status.ok()) return status;
    }
    if (!moved) {
      return absl::InternalError(absl::StrCat("emulator: threads of ", Where(), " wait at a barrier that others of ",
                                              "theirs never reach"));
    }
  }
  return absl::OkStatus();
}

absl::Status Machine::Run(const LaunchShape& shape, uint64_t seed, void (*body)(const void*), const void* args) {
  if (shape.block == 0 || shape.block > 1024 || shape.block % kWarpLanes != 0 || shape.grid_x == 0 ||
      shape.grid_y == 0 || shape.grid_y > 65535) {
    return absl::InternalError(absl::StrCat("emulator: a grid of ", shape.grid_x, " x ", shape.grid_y, " blocks of ",
                                            shape.block, " threads"));
  }
  shape_ = shape;
  body_ = body;
  args_ = args;
  random_.seed(seed);
  fibers_.resize(shape.block);
  warps_.resize(shape.block / kWarpLanes);
  while (stacks_.size() < shape.block) stacks_.push_back(std::make_unique<unsigned char[]>(kStackBytes));
  order_.resize(shape.block);
  std::iota(order_.begin(), order_.end(), 0u);
  shared_.resize(shape.shared_bytes + kSharedAlignment);
  const auto address = reinterpret_cast<uintptr_t>(shared_.data());
  shared = shared_.data() + (kSharedAlignment - address % kSharedAlignment) % kSharedAlignment;
  const uint64_t blocks = uint64_t{shape.grid_x} * shape.grid_y;
  const uint64_t first = seed == 0 ? 0 : seed % blocks;
  for (uint64_t i = 0; i < blocks; ++i) {
    const uint64_t at = seed % 2 == 0 ? (first + i) % blocks : (first + blocks - i) % blocks;
    block_ = {static_cast<uint32_t>(at % shape.grid_x), static_cast<uint32_t>(at / shape.grid_x)};
    if (absl::Status status = RunBlock(seed); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunGrid(const LaunchShape& shape, uint64_t seed, void (*body)(const void*), const void* args) {
  return machine.Run(shape, seed, body, args);
}

const Place& Here() { return machine.current->place; }
unsigned char* Shared() { return machine.shared; }
void SyncBlock() { machine.Wait(Barrier::kBlock); }
void SyncWarp() { machine.Wait(Barrier::kWarp); }

const uint64_t* Exchange(uint64_t bits) {
  Fiber* fiber = machine.current;
  uint64_t* slots = machine.warp().slots[fiber->exchanges++ % 2];
  slots[fiber->place.thread.x % kWarpLanes] = bits;
  machine.Wait(Barrier::kExchange);
  return slots;
}

uint32_t Ballot(bool vote) {
  const uint64_t* votes = Exchange(vote);
  uint32_t ballot = 0;
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) ballot |= static_cast<uint32_t>(votes[lane]) << lane;
  return ballot;
}

}  // namespace emulator
}  // namespace hga
