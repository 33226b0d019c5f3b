#include "gpu_worker/backend/cuda/emulator/emulator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/kv/bf16.h"

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

struct Copy {
  void* to;
  const void* from;
};

struct Fiber {
  void* stack_end = nullptr;  // where it goes on
  Place place;
  Barrier waits = Barrier::kNone;
  bool done = false;
  uint32_t exchanges = 0;
  std::vector<Copy> copies;  // not done yet
};

// Of all lanes: left[4], right[2], and their product once a lane has made it.
struct Product {
  uint32_t words[kWarpLanes][6];
  float sums[16][8];
  bool made = false;
};

struct WarpState {
  uint32_t arrived = 0;
  // Taking turns: nobody is more than one exchange ahead.
  uint64_t slots[2][kWarpLanes];
  Product products[2];
};

float HalfOf(uint32_t word, uint32_t half) { return ToFloat(bf16{static_cast<uint16_t>(word >> (16 * half))}); }

void Make(Product* p) {
  float left[16][16], right[16][8];
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t row = lane / 4, at = lane % 4 * 2 + half;
      for (uint32_t i = 0; i < 4; ++i) left[row + i % 2 * 8][at + i / 2 * 8] = HalfOf(p->words[lane][i], half);
      for (uint32_t i = 0; i < 2; ++i) right[at + i * 8][row] = HalfOf(p->words[lane][4 + i], half);
    }
  }
  std::memset(p->sums, 0, sizeof(p->sums));
  for (uint32_t r = 0; r < 16; ++r) {
    for (uint32_t k = 0; k < 16; ++k) {
      for (uint32_t c = 0; c < 8; ++c) p->sums[r][c] += left[r][k] * right[k][c];
    }
  }
  p->made = true;
}

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

void Multiply(const uint32_t left[4], const uint32_t right[2], float sums[4]) {
  Fiber* fiber = machine.current;
  const uint32_t lane = fiber->place.thread.x % kWarpLanes;
  Product& p = machine.warp().products[fiber->exchanges++ % 2];
  std::memcpy(p.words[lane], left, 4 * sizeof(uint32_t));
  std::memcpy(p.words[lane] + 4, right, 2 * sizeof(uint32_t));
  p.made = false;
  machine.Wait(Barrier::kExchange);
  if (!p.made) Make(&p);
  for (uint32_t i = 0; i < 4; ++i) sums[i] += p.sums[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

void CheckRows(const void* memory, uint32_t stride) {
  if (reinterpret_cast<uintptr_t>(memory) % 16 == 0 && stride % 8 == 0) return;
  std::fprintf(stderr, "emulator: a matrix whose rows are not aligned to 16 bytes\n");
  std::abort();
}

void CopyLater(void* to, const void* from) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
    std::fprintf(stderr, "emulator: a copy that is not aligned to 16 bytes\n");
    std::abort();
  }
  machine.current->copies.push_back({to, from});
}

void WaitForCopies() {
  for (const Copy& copy : machine.current->copies) std::memcpy(copy.to, copy.from, 16);
  machine.current->copies.clear();
}

}  // namespace emulator
}  // namespace hga
