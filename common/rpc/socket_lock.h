// Makes sure that one process serves at a Unix socket.
#ifndef HGA_COMMON_RPC_SOCKET_LOCK_H_
#define HGA_COMMON_RPC_SOCKET_LOCK_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace hga {

// Holds an exclusive lock on `<socket>.lock` for as long as it lives. The kernel drops it with the process, so a socket
// that a dead process left behind is free to be replaced.
class SocketLock {
 public:
  SocketLock() = default;
  ~SocketLock();
  SocketLock(SocketLock&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  SocketLock& operator=(SocketLock&&) = delete;

  // Makes the socket's folder (0700) where it is missing, takes the lock, removes a stale socket.
  // ALREADY_EXISTS: another process serves there.
  static absl::StatusOr<SocketLock> Take(const std::string& socket_path);

 private:
  explicit SocketLock(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace hga

#endif  // HGA_COMMON_RPC_SOCKET_LOCK_H_
