#include "gpu_worker/engine/step_budget.h"

#include "gtest/gtest.h"

namespace hga {
namespace {

KvGeometry Geometry() {
  KvGeometry g;
  g.layers = 4;
  g.query_heads = 4;
  g.kv_heads = 2;
  g.head_dim = 8;
  return g;
}

// Keys [0, count) of each KV head.
std::vector<HeadSelection> Selection(uint32_t count) {
  HeadSelection head;
  for (uint32_t chunk = 0; count > 0; ++chunk) {
    const uint32_t some = std::min(count, 64u);
    head.push_back({chunk, 0, ~uint64_t{0} >> (64 - some)});
    count -= some;
  }
  return {head, head};
}

BudgetOptions Strict() {
  BudgetOptions options;
  options.step_cap = 1;
  return options;
}

TEST(StepBudgetTest, EarlyLayersMayTakeMoreAndTheStepKeepsItsBudget) {
  BudgetOptions options;
  options.layer_cap = 2;
  options.step_cap = 1;
  options.layer_floor = 0.5f;
  StepBudget budget(options, Geometry(), {100}, 1000);
  const float attended[4] = {};
  uint32_t layer = 0;
  for (const uint32_t expected : {200, 100, 50, 50}) {
    RouteBlock route;
    budget.FillRoute(layer++, attended, &route);
    EXPECT_TRUE(route.shared);
    EXPECT_EQ(route.attended, attended);
    EXPECT_EQ(route.budget_keys[0], expected);
    budget.Spend(Selection(expected));
  }
}

TEST(StepBudgetTest, WhatALayerLeavesGoesToLaterOnes) {
  StepBudget budget(Strict(), Geometry(), {100}, 1000);
  RouteBlock route;
  for (uint32_t layer = 0; layer < 3; ++layer) {
    budget.FillRoute(layer, nullptr, &route);
    budget.Spend(Selection(10));
  }
  budget.FillRoute(3, nullptr, &route);
  EXPECT_EQ(route.budget_keys[0], 200u);  // the cap
}

TEST(StepBudgetTest, ALooseStepIsBoundByItsLayersAlone) {
  BudgetOptions options;
  options.step_cap = 2;
  StepBudget budget(options, Geometry(), {100}, 1000);
  for (uint32_t layer = 0; layer < 4; ++layer) {
    RouteBlock route;
    budget.FillRoute(layer, nullptr, &route);
    EXPECT_EQ(route.budget_keys[0], 200u);
    budget.Spend(Selection(200));
  }
}

TEST(StepBudgetTest, InAPrefillChunkEachLayerHasTheBudget) {
  BudgetOptions options;
  options.step_cap = 2;
  StepBudget budget(options, Geometry(), {50, 100}, 1000);
  RouteBlock route;
  for (uint32_t layer = 0; layer < 4; ++layer) {
    budget.FillRoute(layer, nullptr, &route);
    EXPECT_TRUE(route.shared);
    EXPECT_EQ(route.budget_keys[0], 50u);
    EXPECT_EQ(route.budget_keys[1], 100u);
    budget.Spend(Selection(layer == 1 ? 10 : 100));
  }
}

TEST(StepBudgetTest, ABudgetForEverythingSelectsEverything) {
  StepBudget budget(BudgetOptions(), Geometry(), {999, 1000}, 1000);
  RouteBlock route;
  budget.FillRoute(0, nullptr, &route);
  EXPECT_NE(route.budget_keys[0], kEverything);
  EXPECT_EQ(route.budget_keys[1], kEverything);
  StepBudget all(BudgetOptions(), Geometry(), {1000}, 1000);
  RouteBlock plain;
  all.FillRoute(0, nullptr, &plain);
  EXPECT_EQ(plain.budget_keys[0], kEverything);
  EXPECT_EQ(plain.least_share, 0);
}

TEST(StepBudgetTest, FixedIsTheSameInEveryLayer) {
  BudgetOptions options;
  options.shared = false;
  StepBudget budget(options, Geometry(), {100}, 1000);
  for (uint32_t layer = 0; layer < 4; ++layer) {
    RouteBlock route;
    const float attended[4] = {};
    budget.FillRoute(layer, attended, &route);
    EXPECT_FALSE(route.shared);
    EXPECT_EQ(route.attended, nullptr);
    EXPECT_EQ(route.budget_keys[0], 100u);
    budget.Spend(Selection(100));
  }
}

}  // namespace
}  // namespace hga
