// Replays a trace of kv_store --record_trace under several eviction policies and arena sizes:
//   replay_trace TRACE [--slots=N,N,...]
//   replay_trace TRACE --packed=0.5,0.75    of the same bytes of RAM, these shares as packed level behind the arena
// `hga` runs the store's own SlotTable and GhostList; `min` is Belady's optimum, which knows the future.
#include <algorithm>
#include <cstdio>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "kv_store/store/ghost_list.h"
#include "kv_store/store/slot_table.h"
#include "kv_store/store/trace.h"
#include "kv_store/tier/packed_cache.h"

ABSL_FLAG(std::vector<std::string>, slots, {}, "arena sizes; default: shares of all blocks of the trace");
ABSL_FLAG(std::vector<std::string>, packed, {},
          "compare the arena alone with these shares of its RAM packed to 8 bits");

namespace hga {
namespace {

using Block = uint32_t;  // chunk * layers + layer
constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();

// A cache that replays. Held blocks are never evicted; where all are held, it grows over its size for a while, as the
// store's clients would wait.
class Policy {
 public:
  virtual ~Policy() = default;
  virtual bool Has(Block block) const = 0;
  // Brings a block in, held once. `now`: number of the event.
  virtual void Insert(Block block, uint64_t now) = 0;
  virtual void Commit(Block block, uint64_t now) { Insert(block, now); }  // it is new
  virtual void Hit(Block block, uint64_t now) = 0;                        // holds it
  virtual void Release(Block block) = 0;
  virtual void Erase(Block block) = 0;
  virtual void Pin(Block, bool) {}
};

// Policies that keep blocks in order of a key and evict the smallest.
class Ordered : public Policy {
 public:
  enum class Kind { kLru, kFifo, kMin };
  // next_use[i]: the event after event i that fetches the same block.
  Ordered(Kind kind, size_t slots, const std::vector<uint64_t>* next_use)
      : kind_(kind), slots_(slots), next_use_(*next_use) {}

  bool Has(Block block) const override { return blocks_.count(block) > 0; }
  void Insert(Block block, uint64_t now) override {
    if (blocks_.size() >= slots_ && !unheld_.empty()) {
      blocks_.erase(unheld_.begin()->second);
      unheld_.erase(unheld_.begin());
    }
    blocks_[block] = {1, KeyOf(now)};
  }
  void Hit(Block block, uint64_t now) override {
    Entry& entry = blocks_[block];
    if (entry.holds++ == 0) unheld_.erase({entry.key, block});
    if (kind_ != Kind::kFifo) entry.key = KeyOf(now);
  }
  void Release(Block block) override {
    const auto found = blocks_.find(block);
    if (found == blocks_.end() || found->second.holds == 0 || --found->second.holds > 0) return;
    if (kind_ == Kind::kLru) found->second.key = ++releases_;
    unheld_.insert({found->second.key, block});
  }
  void Erase(Block block) override {
    const auto found = blocks_.find(block);
    if (found == blocks_.end()) return;
    unheld_.erase({found->second.key, block});
    blocks_.erase(found);
  }

 private:
  struct Entry {
    uint32_t holds = 0;
    uint64_t key = 0;
  };
  uint64_t KeyOf(uint64_t now) { return kind_ == Kind::kMin ? kNever - next_use_[now] : ++releases_; }

  const Kind kind_;
  const size_t slots_;
  const std::vector<uint64_t>& next_use_;
  uint64_t releases_ = 0;
  std::map<Block, Entry> blocks_;
  std::set<std::pair<uint64_t, Block>> unheld_;
};

// What the store does.
class Store : public Policy {
 public:
  // Some slots more than it may use: what is held over the size needs a place.
  Store(size_t slots, size_t blocks)
      : table_(static_cast<uint32_t>(slots)), ghosts_(slots), slot_of_(blocks, kNoSlot), over_(blocks, 0) {}

  bool Has(Block block) const override { return slot_of_[block] != kNoSlot || over_[block] > 0; }
  void Insert(Block block, uint64_t) override {
    uint32_t slot = table_.TakeFree(SlotState::kStaging);
    if (slot == kNoSlot && table_.Victim() != kNoSlot) {
      const uint32_t victim = table_.Victim();
      const Block old = table_.layer(victim);
      ghosts_.Add(Name(old));
      slot_of_[old] = kNoSlot;
      table_.Drop(victim);
      slot = table_.TakeFree(SlotState::kStaging);
    }
    if (slot == kNoSlot) {
      over_[block] = 1;
      return;
    }
    slot_of_[block] = slot;
    if (ghosts_.Take(Name(block))) table_.MarkReused(slot);
    table_.SetPinned(slot, pinned_.count(block) > 0);
    table_.Hold(slot);
    table_.Assign(slot, nullptr, block, SlotState::kClean);
  }
  void Hit(Block block, uint64_t) override {
    if (over_[block] > 0) {
      ++over_[block];
      return;
    }
    table_.MarkReused(slot_of_[block]);
    table_.Hold(slot_of_[block]);
  }
  void Release(Block block) override {
    if (over_[block] > 0) {
      --over_[block];
    } else if (slot_of_[block] != kNoSlot && table_.holds(slot_of_[block]) > 0) {
      table_.Unhold(slot_of_[block]);
    }
  }
  void Erase(Block block) override {
    over_[block] = 0;
    const uint32_t slot = std::exchange(slot_of_[block], kNoSlot);
    if (slot == kNoSlot) return;
    while (table_.holds(slot) > 0) table_.Unhold(slot);
    table_.Drop(slot);
  }
  void Pin(Block block, bool pinned) override {
    if (pinned) {
      pinned_.insert(block);
    } else {
      pinned_.erase(block);
    }
    if (slot_of_[block] != kNoSlot) table_.SetPinned(slot_of_[block], pinned);
  }

 private:
  static BlockName Name(Block block) {
    BlockName name;
    name.layer = block;
    return name;
  }

  SlotTable table_;
  GhostList ghosts_;
  std::vector<uint32_t> slot_of_;
  std::vector<uint32_t> over_;  // holds of blocks that found no slot
  std::set<Block> pinned_;
};

// The arena and, behind it, the packed level (kv_store/tier/packed_tier.h): filled by what is written back, which here
// is at once, and by what is read from the disk. `arena` has whatever is in both.
class TwoLevels : public Policy {
 public:
  TwoLevels(size_t slots, uint64_t packed_bytes, size_t blocks, uint64_t block_bytes)
      : arena_(slots, blocks), cache_(packed_bytes) {
    std::string value;
    value.reserve(16 + block_bytes / 64 * 33);  // header, scales, bytes
    value_ = std::make_shared<const std::string>(std::move(value));
  }

  bool Has(Block block) const override { return arena_.Has(block); }
  void Insert(Block block, uint64_t now) override {
    packed_hits_ += Find(block);
    if (!found_) cache_.Put(Name(block), value_);
    arena_.Insert(block, now);
  }
  void Commit(Block block, uint64_t now) override {
    cache_.Put(Name(block), value_);
    arena_.Insert(block, now);
  }
  void Hit(Block block, uint64_t now) override { arena_.Hit(block, now); }
  void Release(Block block) override { arena_.Release(block); }
  void Erase(Block block) override {
    arena_.Erase(block);
    cache_.Erase(Name(block));
  }
  void Pin(Block block, bool pinned) override { arena_.Pin(block, pinned); }

  uint64_t packed_hits() const { return packed_hits_; }

 private:
  static BlockName Name(Block block) {
    BlockName name;
    name.layer = block;
    return name;
  }
  bool Find(Block block) { return found_ = cache_.Get(Name(block)) != nullptr; }

  Store arena_;
  PackedCache cache_;
  PackedCache::Value value_;
  bool found_ = false;
  uint64_t packed_hits_ = 0;
};

struct Hits {
  uint64_t fetches = 0, hits = 0;
  double rate() const { return fetches == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(fetches); }
};

Hits Replay(const Trace& trace, Policy* policy) {
  Hits hits;
  const uint32_t layers = trace.header.layers;
  for (uint64_t i = 0; i < trace.entries.size(); ++i) {
    const TraceEntry& entry = trace.entries[i];
    const Block first = entry.chunk * layers, block = first + entry.layer;
    switch (entry.event) {
      case TraceEvent::kFetch:
        ++hits.fetches;
        hits.hits += policy->Has(block);
        policy->Has(block) ? policy->Hit(block, i) : policy->Insert(block, i);
        break;
      case TraceEvent::kRelease:
        policy->Release(block);
        break;
      default:
        for (Block b = first; b < first + layers; ++b) {
          if (entry.event == TraceEvent::kErase) policy->Erase(b);
          if (entry.event == TraceEvent::kPin) policy->Pin(b, true);
          if (entry.event == TraceEvent::kUnpin) policy->Pin(b, false);
          if (entry.event != TraceEvent::kCommit) continue;
          policy->Has(b) ? policy->Hit(b, i) : policy->Commit(b, i);
        }
    }
  }
  return hits;
}

// A commit counts as one event for all of the chunk's blocks: the first fetch of any of them is its next use.
std::vector<uint64_t> NextUses(const Trace& trace) {
  std::vector<uint64_t> next(trace.entries.size(), kNever);
  std::map<Block, uint64_t> by_block;
  std::map<uint32_t, uint64_t> by_chunk;
  for (uint64_t i = trace.entries.size(); i-- > 0;) {
    const TraceEntry& entry = trace.entries[i];
    if (entry.event == TraceEvent::kCommit && by_chunk.count(entry.chunk) > 0) next[i] = by_chunk[entry.chunk];
    if (entry.event != TraceEvent::kFetch) continue;
    const Block block = entry.chunk * trace.header.layers + entry.layer;
    if (by_block.count(block) > 0) next[i] = by_block[block];
    by_block[block] = i;
    by_chunk[entry.chunk] = i;
  }
  return next;
}

// Hit rates at equal bytes of RAM: all of it arena, or a share of it packed.
void ComparePacked(const Trace& trace, const std::vector<size_t>& sizes, size_t blocks) {
  const std::vector<std::string> shares = absl::GetFlag(FLAGS_packed);
  std::printf("| RAM, of all blocks | arena alone |");
  for (const std::string& share : shares) std::printf(" %s packed: arena + packed |", share.c_str());
  std::printf("\n|---|---|");
  for (size_t i = 0; i < shares.size(); ++i) std::printf("---|");
  for (const size_t slots : sizes) {
    Store alone(slots, blocks);
    std::printf("\n| %.0f%% | %.1f%% |", 100.0 * static_cast<double>(slots) / static_cast<double>(blocks),
                100 * Replay(trace, &alone).rate());
    for (const std::string& text : shares) {
      const double share = std::stod(text);
      const size_t arena = std::max<size_t>(1, static_cast<size_t>(slots * (1 - share)));
      TwoLevels both(arena, (slots - arena) * trace.header.block_bytes, blocks, trace.header.block_bytes);
      const Hits hits = Replay(trace, &both);
      const double packed = static_cast<double>(both.packed_hits()) / std::max<double>(1, hits.fetches);
      std::printf(" %.1f%% (%.1f + %.1f) |", 100 * (hits.rate() + packed), 100 * hits.rate(), 100 * packed);
    }
  }
  std::printf("\n");
}

int Run(const std::string& path) {
  const auto trace = ReadTrace(path);
  if (!trace.ok()) {
    std::fprintf(stderr, "replay_trace: %s\n", trace.status().ToString().c_str());
    return 1;
  }
  uint32_t chunks = 0;
  for (const TraceEntry& entry : trace->entries) chunks = std::max(chunks, entry.chunk + 1);
  const size_t blocks = size_t{chunks} * trace->header.layers;
  std::vector<size_t> sizes;
  for (const std::string& text : absl::GetFlag(FLAGS_slots)) sizes.push_back(std::stoul(text));
  if (sizes.empty()) sizes = {blocks / 8, blocks / 4, blocks / 2, blocks * 3 / 4};
  const std::vector<uint64_t> next = NextUses(*trace);
  std::printf("%s: %zu events, %u chunks of %u blocks of %llu bytes, recorded with %u slots\n", path.c_str(),
              trace->entries.size(), chunks, trace->header.layers,
              static_cast<unsigned long long>(trace->header.block_bytes), trace->header.slots);
  if (!absl::GetFlag(FLAGS_packed).empty()) {
    ComparePacked(*trace, sizes, blocks);
    return 0;
  }
  std::printf("| slots | of all blocks | hga | lru | fifo | min |\n|---|---|---|---|---|---|\n");
  for (size_t slots : sizes) {
    Store store(slots, blocks);
    Ordered lru(Ordered::Kind::kLru, slots, &next), fifo(Ordered::Kind::kFifo, slots, &next),
        min(Ordered::Kind::kMin, slots, &next);
    std::printf("| %zu | %.0f%% |", slots, 100.0 * static_cast<double>(slots) / static_cast<double>(blocks));
    for (Policy* policy : std::initializer_list<Policy*>{&store, &lru, &fifo, &min})
      std::printf(" %.1f%% |", 100 * Replay(*trace, policy).rate());
    std::printf("\n");
  }
  return 0;
}

}  // namespace
}  // namespace hga

int main(int argc, char** argv) {
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  if (arguments.size() != 2) {
    std::fprintf(stderr, "usage: replay_trace TRACE [--slots=N,N,...] [--packed=SHARE,SHARE,...]\n");
    return 2;
  }
  return hga::Run(arguments[1]);
}
