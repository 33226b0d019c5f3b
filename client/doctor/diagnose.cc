#include "client/doctor/diagnose.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/statistics.h"

namespace hga {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint64_t kMiB = uint64_t{1} << 20;
// Of the daemons beside the arena and the weights; a small model takes well under it.
constexpr uint64_t kOwnUse = 2 * kGiB;
constexpr char kArenaSetting[] = "arena_bytes in deploy/config/kv_store.toml, HGA_ARENA_BYTES in deploy/.env";

Finding Memory(const MachineFacts& m) {
  const std::string what = absl::StrCat(HumanBytes(m.memory_total), ", ", HumanBytes(m.memory_available),
                                        " of it available; the arena takes ", HumanBytes(m.arena_bytes));
  if (m.memory_total < m.arena_bytes + kGiB)
    return {"memory", Level::kFail, what, absl::StrCat("Make the arena smaller: ", kArenaSetting, ".")};
  if (m.memory_available < m.arena_bytes + kOwnUse)
    return {"memory", Level::kWarn, what,
            absl::StrCat("End what takes memory, or make the arena smaller: ", kArenaSetting,
                         ". With the stack running this is to be expected.")};
  return {"memory", Level::kOk, what, ""};
}

Finding SharedMemory(const MachineFacts& m) {
  const uint64_t wanted = 2 * m.arena_bytes + 64 * kMiB;
  const std::string remount = absl::StrCat("mount -o remount,size=", wanted / kMiB, "m /dev/shm");
  if (m.shm_total == 0)
    return {"shared memory", Level::kFail, "nothing is mounted at /dev/shm",
            "mount -t tmpfs tmpfs /dev/shm; without it the arena is a file on disk, which is slower."};
  const std::string what =
      absl::StrCat("/dev/shm has ", HumanBytes(m.shm_total), "; the arena takes ", HumanBytes(m.arena_bytes));
  if (m.shm_total < m.arena_bytes)
    return {"shared memory", Level::kFail, what,
            absl::StrCat(remount, "; in a container --shm-size, or the volume of deploy/compose.yaml.")};
  if (m.shm_total < wanted)
    return {"shared memory", Level::kWarn, what,
            absl::StrCat(remount, "; a kv_store that restarts makes its new arena while the old one is still read.")};
  return {"shared memory", Level::kOk, what, ""};
}

Finding HugePages(const MachineFacts& m) {
  if (m.huge_shm.empty())
    return {"huge pages", Level::kWarn, "the kernel has none for shared memory",
            "Attention over a large arena is slower."};
  const std::string what = absl::StrCat("for shared memory: ", m.huge_shm);
  if (m.huge_shm == "never" || m.huge_shm == "deny" || m.huge_shm == "advise")
    return {"huge pages", Level::kWarn, what,
            "echo within_size > /sys/kernel/mm/transparent_hugepage/shmem_enabled, or mount the arena's tmpfs with "
            "huge=within_size (deploy/compose.gpu.yaml does)."};
  return {"huge pages", Level::kOk, what, ""};
}

std::string Limit(uint64_t value, bool bytes) {
  if (value == kUnlimited) return "unlimited";
  return bytes ? HumanBytes(value) : absl::StrCat(value);
}

Finding LockedMemory(const MachineFacts& m) {
  const std::string what = absl::StrCat("limit ", Limit(m.memlock_limit, true), ", swap ", HumanBytes(m.swap_total));
  if (m.memlock_limit >= m.arena_bytes || m.swap_total == 0) return {"locked memory", Level::kOk, what, ""};
  return {"locked memory", Level::kWarn, what,
          "The arena may be swapped out. swapoff -a, or raise the limit: LimitMEMLOCK=infinity in a unit, memlock in "
          "/etc/security/limits.conf."};
}

Finding OpenFiles(const MachineFacts& m) {
  const std::string what = absl::StrCat("limit ", Limit(m.open_files_limit, false));
  if (m.open_files_limit >= 4096) return {"open files", Level::kOk, what, ""};
  const std::string change = "ulimit -n 16384; LimitNOFILE=16384 in a unit. RocksDB keeps its files open.";
  return {"open files", m.open_files_limit >= 1024 ? Level::kWarn : Level::kFail, what, change};
}

Finding Processor(const MachineFacts& m) {
  if (!m.x86) return {"processor", Level::kWarn, absl::StrCat(m.cores, " cores"), "Measured on x86-64 only."};
  const std::string best = !m.avx2 ? "no AVX2" : !m.avx512 ? "AVX2" : "AVX-512";
  const std::string what = absl::StrCat(m.cores, " cores, ", best, m.vnni ? ", VNNI" : "", m.bf16 ? ", BF16" : "");
  if (!m.avx2)
    return {"processor", Level::kWarn, what, "The cpu backend works and is slow; use a processor of 2013 or later."};
  if (m.cores < 2) return {"processor", Level::kWarn, what, "Worker and router share one core; give them two or more."};
  return {"processor", Level::kOk, what, ""};
}

Finding Gpu(const MachineFacts& m) {
  const std::string devices = absl::StrCat(m.gpu_devices, " device", m.gpu_devices == 1 ? "" : "s");
  const std::string version = m.driver_version.empty() ? "" : absl::StrCat(", driver ", m.driver_version);
  if (m.gpu_devices == 0 && !m.cuda_driver) return {"GPU", Level::kOk, "none; the cpu backend computes", ""};
  if (m.gpu_devices == 0)
    return {"GPU", Level::kWarn, absl::StrCat("libcuda is here, but no /dev/nvidia*", version),
            "Load the driver (modprobe nvidia), or give the container its devices (deploy/compose.gpu.yaml)."};
  if (!m.cuda_driver)
    return {"GPU", Level::kWarn, absl::StrCat(devices, ", but libcuda.so.1 cannot be loaded"),
            "Install the driver's libraries, in a container by the NVIDIA container toolkit."};
  return {"GPU", Level::kOk, absl::StrCat(devices, version), ""};
}

Finding DiskSpace(const MachineFacts& m) {
  const std::string what = absl::StrCat(HumanBytes(m.disk.free_bytes), " free in ", m.disk.folder);
  const std::string change = "Make room, or keep the data elsewhere (--data_dir of kv_store).";
  if (m.disk.free_bytes < kGiB) return {"disk space", Level::kFail, what, change};
  if (m.disk.free_bytes < m.arena_bytes) return {"disk space", Level::kWarn, what, change};
  return {"disk space", Level::kOk, what, ""};
}

Finding DiskSpeed(const MachineFacts& m) {
  const DiskFacts& d = m.disk;
  const std::string what =
      absl::StrFormat("write %.0f MB/s, read %.0f MB/s, 64 KiB in %.0f us%s", d.write_mb_per_s, d.read_mb_per_s,
                      d.random_read_us, d.direct_io ? "" : " (through the page cache)");
  if (!d.direct_io)
    return {"disk speed", Level::kWarn, what,
            "This file system takes no direct reads: set direct_io = false in deploy/config/kv_store.toml, or keep the "
            "data on ext4 or XFS."};
  if (d.read_mb_per_s < 300 || d.random_read_us > 2000)
    return {"disk speed", Level::kWarn, what, "Documents come back slowly from this disk; NVMe is meant."};
  return {"disk speed", Level::kOk, what, ""};
}

void Disk(const MachineFacts& m, std::vector<Finding>* out) {
  if (!m.disk.error.empty()) {
    out->push_back({"disk", Level::kFail, m.disk.error, "The data folder must be writable: --data names another one."});
    return;
  }
  out->push_back(DiskSpace(m));
  out->push_back(DiskSpeed(m));
}

Finding DataFolder(const PathFacts& data) {
  const std::string what = absl::StrFormat("%s, mode %04o", data.path, data.mode);
  if (!data.exists) return {"data folder", Level::kOk, absl::StrCat(data.path, " will be made"), ""};
  if (!data.mine || !data.writable)
    return {"data folder", Level::kFail, absl::StrCat(what, ", not yours"),
            absl::StrCat("chown it to the user that runs kv_store, or run as that user: ", data.path)};
  if ((data.mode & 0077) != 0)
    return {"data folder", Level::kWarn, what,
            absl::StrCat("chmod 700 ", data.path, "; it holds what your documents say.")};
  return {"data folder", Level::kOk, what, ""};
}

Finding DaemonFinding(const DaemonFacts& d) {
  if (d.error.empty()) {
    if (d.socket.has_value() && (d.socket->mode & 0077) != 0)
      return {d.name, Level::kFail, absl::StrFormat("%s has mode %04o", d.address, d.socket->mode),
              absl::StrCat("chmod 600 ", d.socket->path, "; anybody here can ask it.")};
    return {d.name, Level::kOk, absl::StrCat("serves at ", d.address), ""};
  }
  if (d.socket.has_value() && d.socket->exists && !d.socket->writable)
    return {d.name, Level::kFail, absl::StrCat(d.address, " may not be used by this user"),
            "Run hga as the user of the daemons."};
  if (d.metrics_port_taken)
    return {d.name, Level::kFail,
            absl::StrCat("does not serve at ", d.address, ", and port ", d.metrics_port,
                         " of its metrics page is taken"),
            absl::StrCat("Find out by whom: ss -ltnp 'sport = :", d.metrics_port,
                         "'; or choose another --metrics_listen.")};
  return {d.name, Level::kWarn, absl::StrCat("does not serve at ", d.address),
          "Start it: deploy/stack.sh start, systemctl start hga.target, or compose; logs say why it ended."};
}

}  // namespace

std::vector<Finding> Diagnose(const MachineFacts& m) {
  std::vector<Finding> out = {Processor(m), Gpu(m),          Memory(m),   SharedMemory(m),
                              HugePages(m), LockedMemory(m), OpenFiles(m)};
  Disk(m, &out);
  out.push_back(DataFolder(m.data));
  for (const DaemonFacts& daemon : m.daemons) out.push_back(DaemonFinding(daemon));
  return out;
}

std::string ToString(Level level) { return level == Level::kOk ? "ok" : level == Level::kWarn ? "warn" : "fail"; }

Level Worst(const std::vector<Finding>& findings) {
  Level worst = Level::kOk;
  for (const Finding& f : findings) worst = std::max(worst, f.level);
  return worst;
}

std::string FindingsTable(const std::vector<Finding>& findings) {
  std::string out;
  for (const Finding& f : findings) {
    absl::StrAppend(&out, absl::StrFormat("%-5s %-14s %s\n", ToString(f.level), f.name, f.what));
    if (!f.change.empty()) absl::StrAppend(&out, std::string(21, ' '), "-> ", f.change, "\n");
  }
  return out;
}

std::string FindingsJson(const std::vector<Finding>& findings) {
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& f : findings) {
    list.push_back({{"name", f.name}, {"level", ToString(f.level)}, {"what", f.what}, {"change", f.change}});
  }
  return Dump({{"level", ToString(Worst(findings))}, {"findings", list}});
}

}  // namespace hga
