// A limit on standing still: it counts only time in which this process ran and nothing moved, so that a test does not
// fail because the machine is loaded or was stopped, and does because something hangs.
#ifndef HGA_TESTS_SUPPORT_PATIENCE_H_
#define HGA_TESTS_SUPPORT_PATIENCE_H_

#include <algorithm>
#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace hga {

class Patience {
 public:
  explicit Patience(absl::Duration limit = absl::Minutes(1)) : limit_(limit) {}

  // To be called again and again while something is waited for. `progress`: any number that changes when it gets on.
  // False: too long without.
  bool Lasts(uint64_t progress = 0) { return Lasts(progress, absl::Now()); }
  bool Lasts(uint64_t progress, absl::Time now) {
    if (progress != progress_ || last_ == absl::InfinitePast()) still_ = absl::ZeroDuration();
    // More between two calls is time in which this process did not run.
    if (last_ != absl::InfinitePast()) still_ += std::min(now - last_, kLongestStep);
    progress_ = progress;
    last_ = now;
    return still_ < limit_;
  }

 private:
  static constexpr absl::Duration kLongestStep = absl::Seconds(1);

  const absl::Duration limit_;
  absl::Duration still_;
  absl::Time last_ = absl::InfinitePast();
  uint64_t progress_ = 0;
};

}  // namespace hga

#endif  // HGA_TESTS_SUPPORT_PATIENCE_H_
