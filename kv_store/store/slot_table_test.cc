#include "kv_store/store/slot_table.h"

#include "gtest/gtest.h"
#include "kv_store/store/ghost_list.h"

namespace hga {
namespace {

// Fills a slot with a clean block.
uint32_t PutClean(SlotTable* table) {
  uint32_t slot = table->TakeFree(SlotState::kReserved);
  if (slot == kNoSlot) {
    table->Drop(table->Victim());
    slot = table->TakeFree(SlotState::kReserved);
  }
  table->Assign(slot, nullptr, 0, SlotState::kClean);
  return slot;
}

TEST(SlotTable, OnlyCleanUnheldSlotsAreVictims) {
  SlotTable table(3);
  const uint32_t dirty = table.TakeFree(SlotState::kDirty);
  const uint32_t held = PutClean(&table);
  table.Hold(held);
  EXPECT_EQ(table.Victim(), kNoSlot);
  EXPECT_EQ(table.available(), 1u);
  const uint32_t clean = PutClean(&table);
  EXPECT_EQ(table.Victim(), clean);
  table.SetState(dirty, SlotState::kClean);
  table.Drop(clean);
  EXPECT_EQ(table.Victim(), dirty);
}

TEST(SlotTable, DroppedSlotStaysUntilItsLastHold) {
  SlotTable table(1);
  const uint32_t slot = PutClean(&table);
  table.Hold(slot);
  table.Hold(slot);
  table.Drop(slot);
  EXPECT_EQ(table.state(slot), SlotState::kOrphan);
  table.Unhold(slot);
  EXPECT_EQ(table.TakeFree(SlotState::kReserved), kNoSlot);
  table.Unhold(slot);
  EXPECT_EQ(table.TakeFree(SlotState::kReserved), slot);
}

TEST(SlotTable, AScanDoesNotPushOutWhatIsReused) {
  SlotTable table(8);
  const uint32_t hot = PutClean(&table);
  table.MarkReused(hot);
  table.Hold(hot);
  table.Unhold(hot);
  for (int i = 0; i < 100; ++i) EXPECT_NE(PutClean(&table), hot);
  EXPECT_EQ(table.state(hot), SlotState::kClean);
}

TEST(SlotTable, ProtectedListIsBounded) {
  SlotTable table(8);
  for (int i = 0; i < 8; ++i) {
    const uint32_t slot = PutClean(&table);
    table.MarkReused(slot);
    table.Hold(slot);
    table.Unhold(slot);
  }
  // All were reused, so the two least recent ones are back on probation and go first.
  EXPECT_EQ(table.Victim(), 0u);
  EXPECT_EQ(table.available(), 8u);
}

TEST(SlotTable, PinnedBlocksGoLast) {
  SlotTable table(8);
  const uint32_t pinned = PutClean(&table), reused = PutClean(&table);
  table.SetPinned(pinned, true);
  table.MarkReused(reused);
  table.Hold(reused);
  table.Unhold(reused);
  EXPECT_EQ(table.Victim(), reused);
  table.Drop(reused);
  EXPECT_EQ(table.Victim(), pinned);
  table.SetPinned(pinned, false);
  const uint32_t newer = PutClean(&table);
  EXPECT_NE(newer, pinned);
  EXPECT_EQ(table.Victim(), pinned);
}

TEST(SlotTable, PinnedBlocksTakeHalfAtMost) {
  SlotTable table(8);
  for (int i = 0; i < 8; ++i) table.SetPinned(PutClean(&table), true);
  EXPECT_EQ(table.available(), 8u);
  EXPECT_EQ(table.Victim(), 0u);  // the oldest of those that found no place
}

TEST(GhostList, KnowsTheLastOnes) {
  GhostList ghosts(2);
  const BlockName a{HashBytes("a"), 1}, b{HashBytes("a"), 2}, c{HashBytes("c"), 1};
  ghosts.Add(a);
  ghosts.Add(b);
  ghosts.Add(c);
  EXPECT_FALSE(ghosts.Take(a));
  EXPECT_TRUE(ghosts.Take(b));
  EXPECT_FALSE(ghosts.Take(b));
  EXPECT_TRUE(ghosts.Take(c));
}

}  // namespace
}  // namespace hga
