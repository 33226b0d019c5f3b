// Runs seeds of the simulation: --seed=N [--seeds=COUNT] [--steps=N] [--trace]
#include <cstdio>
#include <iostream>

#include "CLI/CLI.hpp"
#include "common/base/log.h"
#include "tests/fault/simulation.h"

int main(int argc, char** argv) {
  hga::SimulationOptions options;
  options.seed = 1;
  uint64_t seeds = 1;
  CLI::App app("Simulates the K/V store under faults, from seeds");
  app.add_option("--seed", options.seed, "The first seed");
  app.add_option("--seeds", seeds, "How many, from there");
  app.add_option("--steps", options.steps, "Operations for each");
  app.add_flag("--trace", options.trace, "Each operation to standard error");
  CLI11_PARSE(app, argc, argv);
  hga::SetLogLevel("error");
  hga::SimulationCounts counts;
  uint64_t failed = 0;
  for (const uint64_t end = options.seed + seeds; options.seed < end; ++options.seed) {
    const std::string wrong = hga::RunSimulation(options, &counts);
    if (wrong.empty()) continue;
    ++failed;
    std::printf(
        "seed %llu: %s\n  again with: bazel run -c opt //tests/fault:simulation -- --seed=%llu --steps=%u --trace\n",
        static_cast<unsigned long long>(options.seed), wrong.c_str(), static_cast<unsigned long long>(options.seed),
        options.steps);
  }
  std::printf(
      "%llu seeds, %llu failed; %llu commits, %llu blocks fetched from RAM, %llu from disk, %llu packed in RAM, "
      "%llu crashes, %llu failed writes, %llu damaged blocks, %llu losses found, %llu chunks given up for the budget, "
      "%llu pins lapsed\n",
      static_cast<unsigned long long>(seeds), static_cast<unsigned long long>(failed),
      static_cast<unsigned long long>(counts.commits), static_cast<unsigned long long>(counts.fetched_ram),
      static_cast<unsigned long long>(counts.fetched_disk), static_cast<unsigned long long>(counts.fetched_packed),
      static_cast<unsigned long long>(counts.crashes), static_cast<unsigned long long>(counts.failed_writes),
      static_cast<unsigned long long>(counts.damaged_blocks), static_cast<unsigned long long>(counts.data_loss),
      static_cast<unsigned long long>(counts.given_up), static_cast<unsigned long long>(counts.lapsed_pins));
  return failed == 0 ? 0 : 1;
}
