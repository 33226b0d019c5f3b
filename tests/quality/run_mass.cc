#include "tests/quality/bench.h"
namespace hga {
absl::Status RunMass(const QualityOptions&) { return absl::UnimplementedError("mass"); }
}  // namespace hga
