#include "tests/support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/support/patience.h"

namespace hga {

Process::~Process() {
  if (!running()) return;
  Signal(SIGKILL);
  Reap(0);
}

Process& Process::operator=(Process&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(exit_code_, other.exit_code_);
  return *this;
}

absl::StatusOr<Process> Process::Start(const std::vector<std::string>& argv, const std::string& log_path) {
  std::vector<char*> args;
  for (const std::string& arg : argv) args.push_back(const_cast<char*>(arg.c_str()));
  args.push_back(nullptr);
  const int log = ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", log_path));
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(log, 1);
    ::dup2(log, 2);
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execv(args[0], args.data());
    ::_exit(127);
  }
  const int error = errno;
  ::close(log);
  if (pid < 0) return absl::ErrnoToStatus(error, "cannot fork");
  Process process;
  process.pid_ = pid;
  return process;
}

bool Process::Reap(int options) {
  int status = 0;
  if (pid_ < 0 || ::waitpid(pid_, &status, options) != pid_) return false;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  pid_ = -1;
  return true;
}

bool Process::running() { return pid_ >= 0 && !Reap(WNOHANG); }

void Process::Signal(int signal) {
  if (pid_ >= 0) ::kill(pid_, signal);
}

absl::StatusOr<int> Process::Wait() {
  constexpr int kPollMs = 500;
  pollfd ended = {pid_ < 0 ? -1 : static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)), POLLIN, 0};
  if (pid_ >= 0 && ended.fd < 0) return absl::ErrnoToStatus(errno, "pidfd_open");
  absl::Status status;
  for (Patience patience; status.ok() && running(); ::poll(&ended, 1, kPollMs)) {
    if (!patience.Lasts()) status = absl::DeadlineExceededError(absl::StrCat("process ", pid_, " is still running"));
  }
  if (ended.fd >= 0) ::close(ended.fd);
  if (!status.ok()) return status;
  return exit_code_;
}

std::string ReadFileOrEmpty(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace hga
