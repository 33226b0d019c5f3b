// HGA_CHECK: a broken invariant ends the process. Never for input, network or disk: those are a Status.
#ifndef HGA_COMMON_BASE_CHECK_H_
#define HGA_COMMON_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

#define HGA_CHECK(condition)                                                                     \
  do {                                                                                           \
    if (!(condition)) {                                                                          \
      std::fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, __LINE__, #condition);     \
      std::abort();                                                                              \
    }                                                                                            \
  } while (false)

#endif  // HGA_COMMON_BASE_CHECK_H_
