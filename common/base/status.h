// Status plumbing shared by every service. Errors are absl::Status inside; common/rpc/status.h maps them at the edge.
#ifndef HGA_COMMON_BASE_STATUS_H_
#define HGA_COMMON_BASE_STATUS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define HGA_CONCAT_INNER_(a, b) a##b
#define HGA_CONCAT_(a, b) HGA_CONCAT_INNER_(a, b)

#define HGA_RETURN_IF_ERROR(expr)                   \
  do {                                              \
    absl::Status hga_status_ = (expr);              \
    if (!hga_status_.ok()) return hga_status_;      \
  } while (false)

// HGA_ASSIGN_OR_RETURN(auto x, F()): x = *F(), or returns F's status.
#define HGA_ASSIGN_OR_RETURN(lhs, expr) \
  HGA_ASSIGN_OR_RETURN_INNER_(HGA_CONCAT_(hga_statusor_, __LINE__), lhs, expr)
#define HGA_ASSIGN_OR_RETURN_INNER_(tmp, lhs, expr) \
  auto tmp = (expr);                                \
  if (!tmp.ok()) return tmp.status();               \
  lhs = std::move(tmp).value()

#endif  // HGA_COMMON_BASE_STATUS_H_
