#include "common/kv/geometry.h"

#include "absl/strings/str_cat.h"

namespace hga {
namespace {

absl::Status CheckRange(const char* name, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("K/V geometry: ", name, " is ", value, ", must be ", low, " to ", high));
}

}  // namespace

absl::Status KvGeometry::Validate() const {
  absl::Status status = CheckRange("layers", layers, 1, 1024);
  status.Update(CheckRange("query_heads", query_heads, 1, 1024));
  status.Update(CheckRange("kv_heads", kv_heads, 1, 1024));
  status.Update(CheckRange("head_dim", head_dim, 8, 256));
  status.Update(CheckRange("chunk_tokens", chunk_tokens, 1, 64));
  status.Update(CheckRange("group_tokens", group_tokens, 1, chunk_tokens));
  if (!status.ok()) return status;
  if (head_dim % 8 != 0)
    return absl::InvalidArgumentError(absl::StrCat("K/V geometry: head_dim ", head_dim, " is not a multiple of 8"));
  if (dtype != KvDtype::kBf16 && dtype != KvDtype::kInt8) {
    return absl::InvalidArgumentError(
        absl::StrCat("K/V geometry: blocks hold bf16 or int8, not type ", static_cast<int>(dtype)));
  }
  if (query_heads % kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("K/V geometry: query_heads ", query_heads, " is not a multiple of kv_heads ", kv_heads));
  }
  if (chunk_tokens % group_tokens != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("K/V geometry: chunk_tokens ", chunk_tokens, " is not a multiple of group_tokens ", group_tokens));
  }
  return absl::OkStatus();
}

}  // namespace hga
