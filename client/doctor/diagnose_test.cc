#include "client/doctor/diagnose.h"

#include <functional>
#include <set>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

MachineFacts GoodMachine() {
  MachineFacts m;
  m.arena_bytes = 4 * kGiB;
  m.memory_total = 64 * kGiB;
  m.memory_available = 50 * kGiB;
  m.swap_total = 8 * kGiB;
  m.shm_total = 32 * kGiB;
  m.huge_shm = "within_size";
  m.memlock_limit = kUnlimited;
  m.open_files_limit = 16384;
  m.cores = 16;
  m.x86 = m.avx2 = m.avx512 = m.vnni = m.bf16 = true;
  m.gpu_devices = 1;
  m.cuda_driver = true;
  m.driver_version = "550.54.14";
  m.disk.folder = "/var/lib/hga";
  m.disk.direct_io = true;
  m.disk.free_bytes = 900 * kGiB;
  m.disk.write_mb_per_s = 2000;
  m.disk.read_mb_per_s = 3000;
  m.disk.random_read_us = 90;
  m.data = {"/var/lib/hga/kv_store", true, true, true, 0700};
  for (const char* name : {"kv_store", "router", "gpu_worker"}) {
    DaemonFacts d;
    d.name = name;
    d.address = std::string("unix:/run/hga/") + name + ".sock";
    d.socket = PathFacts{d.address.substr(5), true, true, true, 0600};
    d.metrics_port = 9101;
    d.metrics_port_taken = true;
    m.daemons.push_back(d);
  }
  return m;
}

TEST(DiagnoseTest, GoodMachineIsOk) {
  const auto findings = Diagnose(GoodMachine());
  for (const Finding& f : findings) {
    EXPECT_EQ(f.level, Level::kOk) << f.name << ": " << f.what;
    EXPECT_TRUE(f.change.empty()) << f.name;
    EXPECT_FALSE(f.what.empty()) << f.name;
  }
  EXPECT_EQ(findings.size(), 13u);
  EXPECT_EQ(Worst(findings), Level::kOk);
}

struct Case {
  const char* finding;
  Level level;
  const char* in_change;
  std::function<void(MachineFacts*)> spoil;
};

// Each spoils one thing: its own finding tells, and no other one changes.
TEST(DiagnoseTest, EachFaultIsToldWithWhatToChange) {
  const std::vector<Case> cases = {
      {"memory", Level::kFail, "arena", [](auto* m) { m->memory_total = 4 * kGiB; }},
      {"memory", Level::kWarn, "smaller", [](auto* m) { m->memory_available = 5 * kGiB; }},
      {"shared memory", Level::kFail, "size=8256m", [](auto* m) { m->shm_total = kGiB; }},
      {"shared memory", Level::kFail, "mount", [](auto* m) { m->shm_total = 0; }},
      {"shared memory", Level::kWarn, "restarts", [](auto* m) { m->shm_total = 5 * kGiB; }},
      {"huge pages", Level::kWarn, "shmem_enabled", [](auto* m) { m->huge_shm = "never"; }},
      {"locked memory", Level::kWarn, "LimitMEMLOCK", [](auto* m) { m->memlock_limit = 8 << 20; }},
      {"open files", Level::kWarn, "LimitNOFILE", [](auto* m) { m->open_files_limit = 1024; }},
      {"open files", Level::kFail, "ulimit", [](auto* m) { m->open_files_limit = 256; }},
      {"processor", Level::kWarn, "2013", [](auto* m) { m->avx2 = false; }},
      {"processor", Level::kWarn, "two", [](auto* m) { m->cores = 1; }},
      {"GPU", Level::kWarn, "container toolkit", [](auto* m) { m->cuda_driver = false; }},
      {"GPU", Level::kWarn, "modprobe", [](auto* m) { m->gpu_devices = 0; }},
      {"disk space", Level::kFail, "room", [](auto* m) { m->disk.free_bytes = 1 << 20; }},
      {"disk space", Level::kWarn, "room", [](auto* m) { m->disk.free_bytes = 2 * kGiB; }},
      {"disk speed", Level::kWarn, "NVMe", [](auto* m) { m->disk.read_mb_per_s = 100; }},
      {"disk speed", Level::kWarn, "NVMe", [](auto* m) { m->disk.random_read_us = 9000; }},
      {"disk speed", Level::kWarn, "direct_io", [](auto* m) { m->disk.direct_io = false; }},
      {"data folder", Level::kWarn, "chmod 700", [](auto* m) { m->data.mode = 0755; }},
      {"data folder", Level::kFail, "chown", [](auto* m) { m->data.mine = false; }},
      {"router", Level::kWarn, "systemctl",
       [](auto* m) { m->daemons[1].error = "gone", m->daemons[1].metrics_port_taken = false; }},
      {"router", Level::kFail, "ss -ltnp", [](auto* m) { m->daemons[1].error = "gone"; }},
      {"router", Level::kFail, "as the user",
       [](auto* m) { m->daemons[1].error = "denied", m->daemons[1].socket->writable = false; }},
      {"router", Level::kFail, "chmod 600", [](auto* m) { m->daemons[1].socket->mode = 0666; }},
  };
  for (const Case& c : cases) {
    MachineFacts m = GoodMachine();
    c.spoil(&m);
    for (const Finding& f : Diagnose(m)) {
      if (f.name == c.finding) {
        EXPECT_EQ(f.level, c.level) << f.name << ": " << f.what;
        EXPECT_NE(f.change.find(c.in_change), std::string::npos) << f.name << ": " << f.change;
      } else {
        EXPECT_EQ(f.level, Level::kOk) << c.finding << " changed " << f.name;
      }
    }
  }
}

TEST(DiagnoseTest, AMachineWithoutGpuOrSwapIsFine) {
  MachineFacts m = GoodMachine();
  m.gpu_devices = 0;
  m.cuda_driver = false;
  m.swap_total = 0;
  m.memlock_limit = 0;
  EXPECT_EQ(Worst(Diagnose(m)), Level::kOk);
}

TEST(DiagnoseTest, ADiskThatCannotBeWrittenIsOneFailure) {
  MachineFacts m = GoodMachine();
  m.disk.error = "cannot write in /nowhere: denied";
  const auto findings = Diagnose(m);
  EXPECT_EQ(Worst(findings), Level::kFail);
  EXPECT_EQ(findings.size(), 12u);
}

TEST(DiagnoseTest, TableAndJsonTellTheSame) {
  MachineFacts m = GoodMachine();
  m.shm_total = kGiB;
  const auto findings = Diagnose(m);
  const auto json = nlohmann::json::parse(FindingsJson(findings));
  EXPECT_EQ(json["level"], "fail");
  ASSERT_EQ(json["findings"].size(), findings.size());
  const std::string table = FindingsTable(findings);
  for (const auto& f : json["findings"]) {
    EXPECT_NE(table.find(f["what"].get<std::string>()), std::string::npos);
    EXPECT_NE(table.find(f["change"].get<std::string>()), std::string::npos);
  }
  EXPECT_NE(table.find("fail  shared memory"), std::string::npos) << table;
}

}  // namespace
}  // namespace hga
