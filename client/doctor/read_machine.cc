#include "client/doctor/read_machine.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cctype>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/doctor/disk_speed.h"
#include "common/rpc/health.h"

namespace hga {
namespace {

std::string Contents(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

uint64_t SoftLimit(int resource) {
  rlimit limit{};
  ::getrlimit(resource, &limit);
  return limit.rlim_cur == RLIM_INFINITY ? kUnlimited : limit.rlim_cur;
}

// "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  ..." gives 550.54.14.
std::string DriverVersion(const std::string& text) {
  const std::vector<std::string> words =
      absl::StrSplit(text.substr(0, text.find('\n')), absl::ByAnyChar(" \t"), absl::SkipEmpty());
  for (const std::string& word : words) {
    if (std::isdigit(static_cast<unsigned char>(word[0])) && absl::StrContains(word, ".")) return word;
  }
  return "";
}

void ReadGpu(const std::string& root, MachineFacts* m) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root + "/dev", error)) {
    const std::string name = entry.path().filename().string();
    const bool numbered = name.size() > 6 && name.find_first_not_of("0123456789", 6) == std::string::npos;
    if (numbered && absl::StartsWith(name, "nvidia")) ++m->gpu_devices;
  }
  m->driver_version = DriverVersion(Contents(root + "/proc/driver/nvidia/version"));
  void* library = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  m->cuda_driver = library != nullptr;
  if (library != nullptr) ::dlclose(library);
}

void ReadProcessor(const std::string& root, MachineFacts* m) {
  const std::string cpuinfo = Contents(root + "/proc/cpuinfo");
  m->cores = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__x86_64__)
  m->x86 = true;
#endif
  m->avx2 = HasFlag(cpuinfo, "avx2");
  m->avx512 = HasFlag(cpuinfo, "avx512f") && HasFlag(cpuinfo, "avx512bw");
  m->vnni = HasFlag(cpuinfo, "avx512_vnni") || HasFlag(cpuinfo, "avx_vnni");
  m->bf16 = HasFlag(cpuinfo, "avx512_bf16");
}

DaemonFacts AskDaemon(const std::string& name, const std::string& address, int metrics_port) {
  DaemonFacts d;
  d.name = name;
  d.address = address;
  d.error = std::string(WaitHealthy(address, std::chrono::milliseconds(0)).message());
  if (absl::StartsWith(address, "unix:")) d.socket = LookAt(address.substr(5));
  d.metrics_port = metrics_port;
  d.metrics_port_taken = PortTaken(metrics_port);
  return d;
}

}  // namespace

uint64_t MemoryLine(const std::string& meminfo, const std::string& name) {
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(meminfo, '\n'))) {
    if (!absl::StartsWith(line, name + ":")) continue;
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    uint64_t kib = 0;
    return words.size() > 1 && absl::SimpleAtoi(words[1], &kib) ? kib << 10 : 0;
  }
  return 0;
}

std::string Chosen(const std::string& choices) {
  const size_t begin = choices.find('['), end = choices.find(']');
  return begin == std::string::npos || end == std::string::npos || end < begin
             ? ""
             : choices.substr(begin + 1, end - begin - 1);
}

bool HasFlag(const std::string& cpuinfo, const std::string& flag) {
  const size_t begin = cpuinfo.find("\nflags");
  if (begin == std::string::npos) return false;
  const std::string line = cpuinfo.substr(begin + 1, cpuinfo.find('\n', begin + 1) - begin - 1);
  for (const std::string& word : std::vector<std::string>(absl::StrSplit(line, ' '))) {
    if (word == flag) return true;
  }
  return false;
}

PathFacts LookAt(const std::string& path) {
  PathFacts facts;
  facts.path = path;
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return facts;
  facts.exists = true;
  facts.mine = info.st_uid == ::geteuid();
  facts.mode = info.st_mode & 07777;
  facts.writable = ::access(path.c_str(), W_OK) == 0;
  return facts;
}

bool PortTaken(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const int on = 1;  // a port whose last connections are still being closed is free
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  const bool taken =
      ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 && errno == EADDRINUSE;
  ::close(fd);
  return taken;
}

MachineFacts ReadMachine(const DoctorTarget& t) {
  MachineFacts m;
  m.arena_bytes = t.arena_bytes;
  const std::string meminfo = Contents(t.root + "/proc/meminfo");
  m.memory_total = MemoryLine(meminfo, "MemTotal");
  m.memory_available = MemoryLine(meminfo, "MemAvailable");
  m.swap_total = MemoryLine(meminfo, "SwapTotal");
  struct statvfs shm;
  if (::statvfs((t.root + "/dev/shm").c_str(), &shm) == 0) m.shm_total = uint64_t{shm.f_blocks} * shm.f_frsize;
  m.huge_shm = Chosen(Contents(t.root + "/sys/kernel/mm/transparent_hugepage/shmem_enabled"));
  m.memlock_limit = SoftLimit(RLIMIT_MEMLOCK);
  m.open_files_limit = SoftLimit(RLIMIT_NOFILE);
  ReadProcessor(t.root, &m);
  ReadGpu(t.root, &m);
  m.disk = MeasureDisk(t.data_folder, t.disk_test_bytes);
  m.data = LookAt(t.data_folder);
  m.daemons.push_back(AskDaemon("kv_store", absl::StrCat("unix:", t.socket_folder, "/kv_store.sock"), 9101));
  m.daemons.push_back(AskDaemon("router", absl::StrCat("unix:", t.socket_folder, "/router.sock"), 9102));
  m.daemons.push_back(AskDaemon("gpu_worker", t.worker, 9103));
  return m;
}

}  // namespace hga
