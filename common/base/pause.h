// What a thread does between two looks at a word that another thread will change.
#ifndef HGA_COMMON_BASE_PAUSE_H_
#define HGA_COMMON_BASE_PAUSE_H_

namespace hga {

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace hga

#endif  // HGA_COMMON_BASE_PAUSE_H_
