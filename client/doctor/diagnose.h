// Judges a machine: what is well, what is slow or fragile, what will not work, and what to change.
#ifndef HGA_CLIENT_DOCTOR_DIAGNOSE_H_
#define HGA_CLIENT_DOCTOR_DIAGNOSE_H_

#include <string>
#include <vector>

#include "client/doctor/facts.h"

namespace hga {

enum class Level { kOk, kWarn, kFail };

struct Finding {
  std::string name;  // "memory", "disk speed", ...
  Level level = Level::kOk;
  std::string what;
  std::string change;  // what to do; empty where all is well
};

// In the order in which they are to be read; at least one for each thing looked at. Pure.
std::vector<Finding> Diagnose(const MachineFacts& machine);

std::string ToString(Level level);  // "ok", "warn", "fail"
Level Worst(const std::vector<Finding>& findings);

// One line a finding, with what to change below it.
std::string FindingsTable(const std::vector<Finding>& findings);
// {"level": "warn", "findings": [{"name", "level", "what", "change"}]}, one line.
std::string FindingsJson(const std::vector<Finding>& findings);

}  // namespace hga

#endif  // HGA_CLIENT_DOCTOR_DIAGNOSE_H_
