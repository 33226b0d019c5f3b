#include "client/doctor/read_machine.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "common/base/temporary_folder.h"
#include "common/rpc/daemon.h"
#include "gtest/gtest.h"
#include "prometheus/registry.h"

namespace hga {
namespace {

// A machine in a folder: what ReadMachine reads of /proc, /sys and /dev.
class ReadMachineTest : public testing::Test {
 protected:
  ReadMachineTest() {
    target_.root = temporary_.path();
    for (const char* sub :
         {"/proc/driver/nvidia", "/sys/kernel/mm/transparent_hugepage", "/dev/shm", "/run", "/data"}) {
      std::filesystem::create_directories(target_.root + sub);
    }
    target_.data_folder = target_.root + "/data";
    target_.socket_folder = target_.root + "/run";
    target_.worker = absl::StrCat("unix:", target_.root, "/run/gpu_worker.sock");
    target_.arena_bytes = 7;
    target_.disk_test_bytes = 1 << 20;
  }

  void Write(const std::string& path, const std::string& text) { std::ofstream(target_.root + path) << text; }

  const TemporaryFolder temporary_;
  DoctorTarget target_;
};

TEST_F(ReadMachineTest, ReadsWhatTheKernelSays) {
  Write("/proc/meminfo", "MemTotal:       24000000 kB\nMemFree: 1 kB\nMemAvailable:   12 kB\nSwapTotal: 3 kB\n");
  Write("/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw avx512_vnni\nbugs\t: none\n");
  Write("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size [advise] never deny force\n");
  Write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Kernel Module  550.54.14  Thu Feb 22\nGCC 12\n");
  for (const char* device : {"nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"}) {
    Write(std::string("/dev/") + device, "");
  }
  const MachineFacts m = ReadMachine(target_);
  EXPECT_EQ(m.arena_bytes, 7u);
  EXPECT_EQ(m.memory_total, 24000000ull << 10);
  EXPECT_EQ(m.memory_available, 12u << 10);
  EXPECT_EQ(m.swap_total, 3u << 10);
  EXPECT_TRUE(m.avx2 && m.avx512 && m.vnni);
  EXPECT_FALSE(m.bf16);
  EXPECT_EQ(m.huge_shm, "advise");
  EXPECT_EQ(m.gpu_devices, 2u);
  EXPECT_EQ(m.driver_version, "550.54.14");
  EXPECT_GT(m.shm_total, 0u);
  EXPECT_GT(m.open_files_limit, 0u);
  EXPECT_GT(m.cores, 0);
  EXPECT_EQ(m.disk.error, "");
  EXPECT_EQ(m.data.path, target_.data_folder);
  EXPECT_TRUE(m.data.exists && m.data.mine && m.data.writable);
}

TEST_F(ReadMachineTest, AnEmptyMachineIsReadWithoutComplaint) {
  std::filesystem::remove_all(target_.root + "/proc");
  std::filesystem::remove_all(target_.root + "/dev");
  const MachineFacts m = ReadMachine(target_);
  EXPECT_EQ(m.memory_total, 0u);
  EXPECT_EQ(m.shm_total, 0u);
  EXPECT_EQ(m.gpu_devices, 0u);
}

TEST_F(ReadMachineTest, AsksEachDaemon) {
  DaemonOptions options;
  options.listen = absl::StrCat("unix:", target_.root, "/run/router.sock");
  auto router = Daemon::Start(options, {}, std::make_shared<prometheus::Registry>());
  ASSERT_TRUE(router.ok()) << router.status();
  (*router)->SetServing(true);
  const MachineFacts m = ReadMachine(target_);
  ASSERT_EQ(m.daemons.size(), 3u);
  EXPECT_NE(m.daemons[0].error, "");
  EXPECT_FALSE(m.daemons[0].socket->exists);
  EXPECT_EQ(m.daemons[1].error, "");
  EXPECT_EQ(m.daemons[1].socket->mode, 0600u);
  EXPECT_EQ(m.daemons[2].address, target_.worker);
}

TEST_F(ReadMachineTest, ModesAreThoseOfTheFile) {
  ::chmod(target_.data_folder.c_str(), 0750);
  EXPECT_EQ(LookAt(target_.data_folder).mode, 0750u);
  EXPECT_FALSE(LookAt(target_.data_folder + "/none").exists);
}

TEST(PortTakenTest, TakenWhileSomebodyListens) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(fd, 1), 0);
  ASSERT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const int port = ntohs(address.sin_port);
  EXPECT_TRUE(PortTaken(port));
  ::close(fd);
  EXPECT_FALSE(PortTaken(port));
}

}  // namespace
}  // namespace hga
