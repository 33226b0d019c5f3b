// The real kv_store daemon alone, in a folder of its own.
#ifndef HGA_TESTS_SUPPORT_KV_STORE_PROCESS_H_
#define HGA_TESTS_SUPPORT_KV_STORE_PROCESS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/support/process.h"

namespace hga {

class KvStoreProcess {
 public:
  // `flags` come after --listen, --data_dir, --arena_path and the metrics page, which is off.
  explicit KvStoreProcess(std::vector<std::string> flags);
  ~KvStoreProcess();  // kills it and removes the folder

  // Starts, or starts again on the same data, and waits until it is healthy; the error holds its log.
  absl::Status Start();
  // SIGKILL, and waits for the end.
  void Kill();

  std::string address() const { return "unix:" + folder_ + "/s"; }
  const std::string& folder() const { return folder_; }
  std::string data_dir() const { return folder_ + "/data"; }
  std::string log() const { return ReadFileOrEmpty(folder_ + "/log"); }
  Process& process() { return process_; }

 private:
  const std::vector<std::string> flags_;
  std::string folder_;
  Process process_;
};

}  // namespace hga

#endif  // HGA_TESTS_SUPPORT_KV_STORE_PROCESS_H_
