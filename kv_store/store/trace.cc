#include "kv_store/store/trace.h"

#include <fcntl.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "common/base/log.h"

namespace hga {
namespace {

uint8_t* PutVarint(uint32_t value, uint8_t* out) {
  for (; value >= 0x80; value >>= 7) *out++ = static_cast<uint8_t>(value | 0x80);
  *out++ = static_cast<uint8_t>(value);
  return out;
}

// False at the end of the bytes.
bool GetVarint(const std::string& bytes, size_t* at, uint32_t* value) {
  *value = 0;
  for (int shift = 0; shift < 35 && *at < bytes.size(); shift += 7) {
    const uint8_t byte = static_cast<uint8_t>(bytes[(*at)++]);
    *value |= static_cast<uint32_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<std::unique_ptr<TraceRecorder>> TraceRecorder::Create(const std::string& path, uint64_t max_bytes) {
  const int fd = ::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
  FILE* file = fd < 0 ? nullptr : ::fdopen(fd, "w");
  if (file == nullptr) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write --record_trace ", path));
  return std::unique_ptr<TraceRecorder>(new TraceRecorder(file, max_bytes));
}

TraceRecorder::~TraceRecorder() {
  if (file_ != nullptr) std::fclose(file_);
}

void TraceRecorder::Start(const TraceHeader& header) {
  if (started_) return;
  started_ = true;
  Write(&header, sizeof(header));
}

void TraceRecorder::Add(TraceEvent event, const ChunkHash& chunk, uint32_t layer) {
  if (file_ == nullptr || !started_) return;
  uint8_t bytes[16];
  uint8_t* end = bytes;
  *end++ = static_cast<uint8_t>(event);
  end = PutVarint(numbers_.try_emplace(chunk, static_cast<uint32_t>(numbers_.size())).first->second, end);
  if (NamesBlock(event)) end = PutVarint(layer, end);
  Write(bytes, end - bytes);
}

void TraceRecorder::Write(const void* data, size_t bytes) {
  bytes_ += bytes;
  if (bytes_ <= max_bytes_ && std::fwrite(data, 1, bytes, file_) == bytes) return;
  LogWarning("the trace ends after ", bytes_ - bytes, " bytes");
  std::fclose(file_);
  file_ = nullptr;
  numbers_.clear();
}

absl::StatusOr<Trace> ReadTrace(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Trace trace;
  if (bytes.size() < sizeof(trace.header)) return absl::InvalidArgumentError(absl::StrCat(path, " is no trace"));
  std::memcpy(&trace.header, bytes.data(), sizeof(trace.header));
  if (trace.header.magic != kTraceMagic || trace.header.layers == 0) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is no trace of this version"));
  }
  uint32_t chunks = 0;
  for (size_t at = sizeof(trace.header); at < bytes.size();) {
    TraceEntry entry{static_cast<TraceEvent>(bytes[at++]), 0, 0};
    if (entry.event < TraceEvent::kCommit || entry.event > TraceEvent::kRelease) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": unknown event before byte ", at));
    }
    if (!GetVarint(bytes, &at, &entry.chunk)) break;
    if (NamesBlock(entry.event) && !GetVarint(bytes, &at, &entry.layer)) break;
    if (entry.chunk > chunks || entry.layer >= trace.header.layers) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": a number out of range before byte ", at));
    }
    chunks += entry.chunk == chunks;
    trace.entries.push_back(entry);
  }
  return trace;
}

}  // namespace hga
