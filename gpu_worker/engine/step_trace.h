// Where the time of steps goes, as a Chrome trace: JSON trace event format, opens in chrome://tracing and Perfetto.
//
// The file is a JSON array of complete events ("X": begin and duration in microseconds, nested by time), one a line. A
// process that is killed leaves the array without its closing bracket, which the format permits; every line before is
// whole. Names of stages, layers, rows and positions are in it, nothing of what was asked or answered.
#ifndef HGA_GPU_WORKER_ENGINE_STEP_TRACE_H_
#define HGA_GPU_WORKER_ENGINE_STEP_TRACE_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace hga {

// Up to two numbers of a span; the names are literals.
struct TraceArgs {
  const char* name = nullptr;  // nullptr: none
  uint64_t value = 0;
  const char* name2 = nullptr;
  uint64_t value2 = 0;
};

// Step thread only, but for Open and the destructor, which run before and after it.
class StepTrace {
 public:
  // From construction to destruction. Costs one branch where `trace` is nullptr, two readings of the clock else.
  class Span {
   public:
    // name: a literal.
    Span(StepTrace* trace, const char* name, TraceArgs args = {}) : trace_(trace) {
      if (trace_ != nullptr) Begin(name, args);
    }
    ~Span() {
      if (trace_ != nullptr) trace_->Add({name_, args_, begin_, Clock::now()});
    }
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;

    // Ends here and goes on as another span with the same numbers.
    void Next(const char* name) {
      if (trace_ == nullptr) return;
      const auto now = Clock::now();
      trace_->Add({name_, args_, begin_, now});
      name_ = name;
      begin_ = now;
    }

   private:
    friend class StepTrace;
    using Clock = std::chrono::steady_clock;

    void Begin(const char* name, TraceArgs args) {
      name_ = name;
      args_ = args;
      begin_ = Clock::now();
    }

    StepTrace* const trace_;
    const char* name_;
    TraceArgs args_;
    Clock::time_point begin_;
  };

  // Makes the file, or empties it: readable by its owner only. max_bytes: recording stops, with a warning in the log,
  // before the file gets longer. UNAVAILABLE: it cannot be made.
  static absl::StatusOr<std::unique_ptr<StepTrace>> Open(const std::string& path, uint64_t max_bytes);
  // Writes what is left and closes the array.
  ~StepTrace();

  // Writes the spans that have ended; the step loop calls it between steps. A failure ends the recording.
  void Write();

 private:
  using Clock = std::chrono::steady_clock;
  struct Event {
    const char* name;
    TraceArgs args;
    Clock::time_point begin, end;
  };

  StepTrace(std::string path, int file, uint64_t max_bytes);
  void Add(const Event& event) {
    if (file_ >= 0) events_.push_back(event);
  }
  void Format(const Event& event);
  bool Flush();
  void Close();

  // Constant after construction.
  const std::string path_;
  const uint64_t max_bytes_;
  const Clock::time_point start_;

  int file_;  // -1: recording has ended
  uint64_t written_ = 0;
  std::vector<Event> events_;
  std::string text_;  // formatted, not written yet
};

}  // namespace hga

#endif  // HGA_GPU_WORKER_ENGINE_STEP_TRACE_H_
