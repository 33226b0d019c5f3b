#include "gpu_worker/engine/step_trace.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"

namespace hga {
namespace {

constexpr char kBegin[] =
    "[\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":1,\"args\":{\"name\":\"gpu_worker\"}},\n"
    "{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":1,\"tid\":1,\"args\":{\"name\":\"step thread\"}}";
constexpr char kEnd[] = "\n]\n";

// Microseconds with three digits behind the point.
void AppendMicroseconds(std::chrono::nanoseconds time, std::string* out) {
  const int64_t ns = time.count();
  absl::StrAppend(out, ns / 1000, ".", absl::Dec(ns % 1000, absl::kZeroPad3));
}

bool WriteAll(int file, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t written = ::write(file, data, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    data += written;
    size -= static_cast<size_t>(written);
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepTrace>> StepTrace::Open(const std::string& path, uint64_t max_bytes) {
  const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (file < 0) return absl::UnavailableError(absl::StrCat("--trace ", path, ": ", std::strerror(errno)));
  // A file that was there before may be readable by others. A device or a pipe keeps its mode.
  struct stat info;
  if (::fstat(file, &info) != 0 || (S_ISREG(info.st_mode) && ::fchmod(file, 0600) != 0)) {
    const int error = errno;
    ::close(file);
    return absl::UnavailableError(absl::StrCat("--trace ", path, ": ", std::strerror(error)));
  }
  return std::unique_ptr<StepTrace>(new StepTrace(path, file, max_bytes));
}

StepTrace::StepTrace(std::string path, int file, uint64_t max_bytes)
    : path_(std::move(path)), max_bytes_(max_bytes), start_(Clock::now()), file_(file), text_(kBegin) {}

StepTrace::~StepTrace() {
  Write();
  Close();
}

void StepTrace::Format(const Event& event) {
  absl::StrAppend(&text_, ",\n{\"name\":\"", event.name, "\",\"ph\":\"X\",\"pid\":1,\"tid\":1,\"ts\":");
  AppendMicroseconds(event.begin - start_, &text_);
  text_ += ",\"dur\":";
  AppendMicroseconds(event.end - event.begin, &text_);
  if (event.args.name != nullptr) {
    absl::StrAppend(&text_, ",\"args\":{\"", event.args.name, "\":", event.args.value);
    if (event.args.name2 != nullptr) absl::StrAppend(&text_, ",\"", event.args.name2, "\":", event.args.value2);
    text_ += "}";
  }
  text_ += "}";
}

bool StepTrace::Flush() {
  const bool ok = WriteAll(file_, text_.data(), text_.size());
  written_ += text_.size();
  text_.clear();
  return ok;
}

void StepTrace::Write() {
  if (file_ < 0) return;
  for (const Event& event : events_) Format(event);
  events_.clear();
  if (written_ + text_.size() + sizeof(kEnd) > max_bytes_) {
    LogWarning("the trace is full, tracing has ended", {{"file", path_}, {"trace_bytes", max_bytes_}});
    text_.clear();  // of the step that does not fit
    return Close();
  }
  if (Flush()) return;
  LogWarning("the trace cannot be written, tracing has ended", {{"file", path_}, {"error", std::strerror(errno)}});
  ::close(file_);
  file_ = -1;
}

void StepTrace::Close() {
  if (file_ < 0) return;
  text_ += kEnd;
  Flush();
  ::close(file_);
  file_ = -1;
}

}  // namespace hga
