#include "gpu_worker/engine/key_cache.h"

#include <cstring>
#include <map>
#include <random>

#include "gtest/gtest.h"

namespace hga {
namespace {

constexpr uint64_t kPlenty = 64 << 20;

// Runs with blocks of each type.
class KeyCacheTest : public testing::TestWithParam<KvDtype> {
 protected:
  void SetUp() override { dtype = GetParam(); }

 public:
  static KvDtype dtype;
};
KvDtype KeyCacheTest::dtype = KvDtype::kBf16;

KvGeometry Geometry() {
  KvGeometry g;
  g.dtype = KeyCacheTest::dtype;
  g.layers = 3;
  g.query_heads = 4;
  g.kv_heads = 2;
  g.head_dim = 8;
  return g;
}

ChunkHash Name(uint32_t document, uint32_t chunk) {
  const std::string text = std::to_string(document) + "/" + std::to_string(chunk);
  return HashBytes(text);
}

std::vector<ChunkHash> Names(uint32_t document, uint32_t chunks) {
  std::vector<ChunkHash> names;
  for (uint32_t i = 0; i < chunks; ++i) names.push_back(Name(document, i));
  return names;
}

// Blocks of a document, each element different; some of them are held.
class Blocks {
 public:
  Blocks(uint32_t document, uint32_t layer) : document_(document), layer_(layer) {}

  void Hold(const std::vector<uint32_t>& chunks) {
    for (uint32_t chunk : chunks) {
      std::vector<uint8_t>& block = held_[chunk];
      block.resize(Geometry().block_bytes());
      std::mt19937 random(document_ * 100000 + layer_ * 1000 + chunk);
      for (uint8_t& x : block) x = static_cast<uint8_t>(random());
    }
  }
  // Those heads of them alone, and rubbish for the others.
  void HoldHeads(const std::vector<FoundKeys::Lacking>& lacking) {
    const size_t part = Geometry().block_bytes() / Geometry().kv_heads;
    for (const FoundKeys::Lacking& of : lacking) {
      Hold(std::vector<uint32_t>{of.chunk});
      for (uint32_t head = 0; head < Geometry().kv_heads; ++head) {
        if ((of.heads >> head & 1) == 0) std::fill_n(held_[of.chunk].begin() + head * part, part, 0xee);
      }
    }
  }
  void GiveBack() { held_.clear(); }
  BlockOfChunk of() const {
    return [this](uint32_t chunk) -> const void* {
      const auto at = held_.find(chunk);
      return at == held_.end() ? nullptr : at->second.data();
    };
  }

 private:
  const uint32_t document_, layer_;
  std::map<uint32_t, std::vector<uint8_t>> held_;
};

std::vector<HeadSelection> RandomSelection(uint32_t chunks, uint32_t seed, uint32_t tokens = 1) {
  std::mt19937 random(seed);
  std::vector<HeadSelection> selection(Geometry().kv_heads);
  for (HeadSelection& head : selection) {
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      uint64_t free = ~uint64_t{0};
      for (uint32_t token = 0; token < tokens; ++token) {
        uint64_t mask = (uint64_t{random()} << 32 | random()) & (uint64_t{random()} << 32 | random()) & free;
        if (random() % 4 == 0) mask |= 0xffff & free;
        free &= ~mask;
        if (mask != 0 && random() % 4 > 0) head.push_back({chunk, token, mask});
      }
    }
  }
  return selection;
}

// The runs' shape, and the keys and values they point to.
std::vector<std::vector<uint32_t>> Contents(const QueryBlock& block) {
  std::vector<std::vector<uint32_t>> contents;
  for (const std::vector<KvRun>& runs : block.runs) {
    for (const KvRun& run : runs) {
      std::vector<uint32_t>& c = contents.emplace_back();
      c = {run.position, run.tokens, run.first_row};
      const KvGeometry g = Geometry();
      std::vector<bf16> k(g.head_dim), v(g.head_dim);
      for (uint32_t t = 0; t < run.tokens; ++t) {
        const KvPlace place = PlaceAfter(g, {run.k, run.v}, t);
        ReadKey(g, place, k.data());
        ReadValue(g, place, v.data());
        for (uint32_t d = 0; d < g.head_dim; ++d) c.insert(c.end(), {k[d].bits, v[d].bits});
      }
    }
  }
  return contents;
}

std::vector<HeldBlock> NoArena(uint32_t) { return {}; }

// Slots of an arena, each filled with rubbish when it is given back.
class Arena {
 public:
  explicit Arena(uint32_t slots) {
    for (uint32_t i = 0; i < slots; ++i) {
      memory_.emplace_back(Geometry().block_bytes());
      free_.push_back(i);
    }
  }
  KeyPages::FromArena source() {
    return [this](uint32_t count) {
      std::vector<HeldBlock> blocks;
      for (; count > 0 && !free_.empty(); --count) {
        blocks.emplace_back(memory_[free_.back()].data(), free_.back(), releaser_);
        free_.pop_back();
      }
      return blocks;
    };
  }
  size_t free() const { return free_.size(); }

 private:
  std::vector<std::vector<uint8_t>> memory_;
  std::vector<uint32_t> free_;
  const std::shared_ptr<const HeldBlock::Releaser> releaser_ =
      std::make_shared<const HeldBlock::Releaser>([this](uint32_t slot) {
        std::fill(memory_[slot].begin(), memory_[slot].end(), 0xee);
        free_.push_back(slot);
      });
};

struct Use {
  FoundKeys found;
  std::vector<uint32_t> fetched;
  std::vector<std::vector<uint32_t>> contents;
};

// What a layer does with a selection: finds, fetches, fills, plans. Afterwards nothing is held.
Use UseLayer(KeyCache* cache, uint32_t document, uint32_t layer, const std::vector<HeadSelection>& selection,
             const std::vector<uint32_t>& held = {}, uint32_t rows = 1) {
  Use use;
  Blocks blocks(document, layer);
  blocks.Hold(held);
  const std::vector<ChunkHash> names = Names(document, 64);
  cache->BeginLayer();
  cache->Find(layer, names, selection, blocks.of(), &use.found);
  for (const FoundKeys::Lacking& lacking : use.found.lacking) use.fetched.push_back(lacking.chunk);
  blocks.HoldHeads(use.found.lacking);
  cache->Fill(layer, names, selection, blocks.of(), &use.found);
  QueryBlock plan;
  cache->Plan({Geometry(), 16, 1}, 0, rows, selection, blocks.of(), use.found, &plan);
  use.contents = Contents(plan);
  return use;
}

std::vector<std::vector<uint32_t>> InPlace(uint32_t document, uint32_t layer,
                                           const std::vector<HeadSelection>& selection, uint32_t rows = 1) {
  Blocks blocks(document, layer);
  blocks.Hold(SelectedChunks(selection));
  QueryBlock plan;
  PlanRouted({Geometry(), 16, 1}, 0, rows, selection, blocks.of(), &plan);
  return Contents(plan);
}

TEST_P(KeyCacheTest, AKeyThatWasCopiedNeedsNoBlock) {
  KeyCache cache(Geometry(), kPlenty, NoArena);
  const auto selection = RandomSelection(20, 1);
  cache.BeginStep();
  const Use first = UseLayer(&cache, 1, 2, selection);
  EXPECT_EQ(first.fetched, SelectedChunks(selection));
  EXPECT_EQ(first.found.copied, SelectedKeys(1, selection));
  EXPECT_EQ(first.found.cached, 0u);
  cache.BeginStep();
  const Use second = UseLayer(&cache, 1, 2, selection);
  EXPECT_TRUE(second.fetched.empty());
  EXPECT_EQ(second.found.cached, SelectedKeys(1, selection));
  EXPECT_EQ(second.found.copied, 0u);
  for (const Use& use : {first, second}) EXPECT_EQ(use.contents, InPlace(1, 2, selection));
}

TEST_P(KeyCacheTest, OneKeyMoreBringsItsBlockAlone) {
  KeyCache cache(Geometry(), kPlenty, NoArena);
  auto selection = RandomSelection(20, 1);
  cache.BeginStep();
  UseLayer(&cache, 1, 0, selection);
  SelectedChunk& more = selection[1][3];
  more.mask = ~uint64_t{0};
  cache.BeginStep();
  const Use use = UseLayer(&cache, 1, 0, selection);
  EXPECT_EQ(use.fetched, std::vector<uint32_t>{more.chunk});
  EXPECT_EQ(use.found.lacking[0].heads, 2u);
  EXPECT_GT(use.found.copied, 0u);
  EXPECT_EQ(use.found.copied + use.found.cached, SelectedKeys(1, selection));
  EXPECT_EQ(use.contents, InPlace(1, 0, selection));
}

TEST_P(KeyCacheTest, WhatIsHeldIsReadInPlaceAndNotCopied) {
  KeyCache cache(Geometry(), kPlenty, NoArena);
  const auto selection = RandomSelection(20, 1);
  const std::vector<uint32_t> chunks = SelectedChunks(selection),
                              held(chunks.begin(), chunks.begin() + chunks.size() / 2);
  for (int step = 0; step < 2; ++step) {
    cache.BeginStep();
    const Use use = UseLayer(&cache, 1, 0, selection, held);
    EXPECT_EQ(use.fetched.empty(), step == 1);
    for (const uint32_t chunk : use.fetched) EXPECT_EQ(std::count(held.begin(), held.end(), chunk), 0);
    EXPECT_LT(use.found.copied + use.found.cached, SelectedKeys(1, selection));
    EXPECT_EQ(use.contents, InPlace(1, 0, selection));
  }
  cache.BeginStep();
  EXPECT_EQ(UseLayer(&cache, 1, 0, selection).fetched, held);
}

TEST_P(KeyCacheTest, LayersAndDocumentsDoNotMix) {
  KeyCache cache(Geometry(), kPlenty, NoArena);
  const auto selection = RandomSelection(20, 1);
  for (int step = 0; step < 2; ++step) {
    cache.BeginStep();
    for (const uint32_t document : {1, 2}) {
      for (uint32_t layer = 0; layer < 3; ++layer) {
        const Use use = UseLayer(&cache, document, layer, selection);
        EXPECT_EQ(use.fetched.empty(), step == 1);
        EXPECT_EQ(use.contents, InPlace(document, layer, selection));
      }
    }
  }
}

TEST_P(KeyCacheTest, UnfinishedChunksAreNotKept) {
  KeyCache cache(Geometry(), kPlenty, NoArena);
  std::vector<HeadSelection> selection(2);
  selection[0] = {{2, 0, 5}};
  const std::vector<ChunkHash> names = Names(1, 2);
  Blocks blocks(1, 0);
  blocks.Hold({2});
  for (int step = 0; step < 2; ++step) {
    FoundKeys found;
    cache.BeginStep();
    cache.Find(0, names, selection, Blocks(1, 0).of(), &found);
    ASSERT_EQ(found.lacking.size(), 1u);
    EXPECT_EQ(found.lacking[0].chunk, 2u);
    EXPECT_EQ(found.lacking[0].heads, 1u);
    cache.Fill(0, names, selection, blocks.of(), &found);
    EXPECT_EQ(found.copied, 0u);
  }
}

// Of any size, with keys that come and go: the same runs, the same bytes.
TEST_P(KeyCacheTest, AnySizeAndContentPlansTheSame) {
  for (const uint64_t bytes : {uint64_t{1}, uint64_t{3000}, uint64_t{40000}, uint64_t{200000}, kPlenty}) {
    KeyCache cache(Geometry(), bytes, NoArena);
    uint64_t cached = 0, copied = 0;
    for (uint32_t step = 0; step < 40; ++step) {
      cache.BeginStep();
      for (uint32_t layer = 0; layer < 3; ++layer) {
        for (const uint32_t document : {1, 2}) {
          const uint32_t rows = step % 5 == 0 ? 3 : 1;
          const auto selection = RandomSelection(12, step / 4 * 10 + layer, rows);
          const Use use = UseLayer(&cache, document, layer, selection, {step % 12}, rows);
          ASSERT_EQ(use.contents, InPlace(document, layer, selection, rows)) << bytes << " bytes, step " << step;
          cached += use.found.cached;
          copied += use.found.copied;
        }
      }
    }
    EXPECT_LE(cache.slots() * 18, bytes);
    EXPECT_EQ(copied > 0, cache.slots() > 0);
    EXPECT_EQ(cached > 0, cache.slots() > 0);
  }
}

// The last step's keys stay: a step that does not fit keeps a part, instead of losing each just before it is used
// again.
TEST_P(KeyCacheTest, AStepThatDoesNotFitKeepsAPart) {
  const auto selection = RandomSelection(20, 1);
  KeyCache half(Geometry(), 3 * Geometry().block_bytes(), NoArena);  // of two pages' keys, bookkeeping included
  ASSERT_GT(SelectedKeys(1, selection), 3 * Geometry().chunk_tokens * Geometry().kv_heads);
  for (int step = 0; step < 4; ++step) {
    half.BeginStep();
    const Use use = UseLayer(&half, 1, 0, selection);
    if (step > 0) {
      EXPECT_EQ(use.found.cached, half.slots());
    }
    EXPECT_EQ(use.found.copied, step == 0 ? half.slots() : 0u);
  }
  const auto other = RandomSelection(20, 2);
  for (int step = 0; step < 3; ++step) {
    half.BeginStep();
    EXPECT_EQ(UseLayer(&half, 1, 0, other).contents, InPlace(1, 0, other));
  }
  half.BeginStep();
  EXPECT_EQ(UseLayer(&half, 1, 0, other).found.cached, half.slots());
}

// With pages of an arena that come and go in the middle of steps: the same runs, the same bytes.
TEST_P(KeyCacheTest, PagesOfTheArenaComeAndGo) {
  Arena arena(24);
  KeyCache cache(Geometry(), 80000, arena.source());
  uint32_t most = 0, given_back = 0;
  for (uint32_t step = 0; step < 60; ++step) {
    cache.BeginStep();
    for (uint32_t layer = 0; layer < 3; ++layer) {
      const auto selection = RandomSelection(24, step / 6 * 10 + layer);
      Blocks blocks(1, layer);
      const std::vector<ChunkHash> names = Names(1, 64);
      FoundKeys found;
      cache.BeginLayer();
      cache.Find(layer, names, selection, blocks.of(), &found);
      if (step % 7 == 6) given_back += cache.GiveBack(5);  // what was found stays
      blocks.HoldHeads(found.lacking);
      cache.Fill(layer, names, selection, blocks.of(), &found);
      if (step % 11 == 10) given_back += cache.GiveBack(3);
      QueryBlock plan;
      cache.Plan({Geometry(), 16, 1}, 0, 1, selection, blocks.of(), found, &plan);
      ASSERT_EQ(Contents(plan), InPlace(1, layer, selection)) << "step " << step;
      most = std::max(most, cache.arena_pages());
      EXPECT_EQ(arena.free() + cache.arena_pages(), 24u);
    }
  }
  EXPECT_GT(most, 3u);
  EXPECT_GT(given_back, 8u);
  cache.BeginLayer();
  cache.GiveBack(UINT32_MAX);
  EXPECT_EQ(cache.arena_pages(), 0u);
  EXPECT_EQ(arena.free(), 24u);
}

// What a layer reads stays until the next one begins.
TEST_P(KeyCacheTest, GivesBackNothingThatTheLayerReads) {
  Arena arena(50);
  KeyCache cache(Geometry(), 10000, arena.source());
  const auto selection = RandomSelection(20, 1);
  cache.BeginStep();
  UseLayer(&cache, 1, 0, selection);
  ASSERT_GT(cache.arena_pages(), 0u);
  const uint32_t pages = cache.arena_pages();
  EXPECT_EQ(cache.GiveBack(UINT32_MAX), 0u);
  cache.BeginLayer();
  EXPECT_EQ(cache.GiveBack(1), 1u);
  EXPECT_EQ(cache.GiveBack(UINT32_MAX), pages - 1);
  cache.BeginStep();
  EXPECT_EQ(UseLayer(&cache, 1, 0, selection).contents, InPlace(1, 0, selection));
}

// Where the worker's own memory holds what some steps ask for, blocks keep the arena.
TEST_P(KeyCacheTest, LeavesTheArenaAloneWhereItsOwnMemoryIsEnough) {
  Arena arena(50);
  KeyCache cache(Geometry(), kPlenty, arena.source());
  for (uint32_t step = 0; step < 20; ++step) {
    cache.BeginStep();
    UseLayer(&cache, 1, 0, RandomSelection(20, step));
  }
  EXPECT_EQ(arena.free(), 50u);
}

INSTANTIATE_TEST_SUITE_P(Types, KeyCacheTest, testing::Values(KvDtype::kBf16, KvDtype::kInt8));

}  // namespace
}  // namespace hga
