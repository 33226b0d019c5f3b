#include "common/kv/kv_dtype.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace hga {
namespace {

constexpr KvDtype kDtypes[] = {KvDtype::kBf16, KvDtype::kFp8E4m3, KvDtype::kInt8};

}  // namespace

const char* KvDtypeName(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kBf16: return "bf16";
    case KvDtype::kFp8E4m3: return "fp8_e4m3";
    case KvDtype::kInt8: return "int8";
  }
  return "unknown";
}

absl::StatusOr<KvDtype> ParseKvDtype(absl::string_view name) {
  for (KvDtype dtype : kDtypes) {
    if (name == KvDtypeName(dtype)) return dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat("'", name, "' is not bf16, fp8_e4m3 or int8"));
}

}  // namespace hga
