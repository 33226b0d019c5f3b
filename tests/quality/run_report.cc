#include "tests/quality/bench.h"
namespace hga {
absl::Status RunReport(const QualityOptions&) { return absl::UnimplementedError("report"); }
}  // namespace hga
