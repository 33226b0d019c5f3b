// "prefill 1536/6400 tokens, 812 tokens/s": one line that rewrites itself on a terminal, else a line now and
// then.
#ifndef HGA_CLIENT_PROGRESS_H_
#define HGA_CLIENT_PROGRESS_H_

#include <functional>

#include "client/console.h"
#include "proto/gpu_worker/v1/gpu_worker.pb.h"

namespace hga {

// Used by one thread. `now_s` counts seconds from any point on and only grows.
class ProgressLine {
 public:
  ProgressLine(Console* console, bool quiet, std::function<double()> now_s);

  void Started(const gpu_worker::v1::Started& started);
  void Update(const gpu_worker::v1::Progress& progress);
  // Takes the line away; what follows starts in an empty one.
  void Clear();

 private:
  Console* const console_;
  const bool quiet_;
  const std::function<double()> now_s_;
  double begin_s_;
  double last_s_;
  bool shown_ = false;
};

}  // namespace hga

#endif  // HGA_CLIENT_PROGRESS_H_
