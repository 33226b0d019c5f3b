// What oneDNN reaches alone: products of plain matrices, packed as it likes them, with nothing around.
#ifndef HGA_TESTS_BENCH_ONEDNN_GEMM_H_
#define HGA_TESTS_BENCH_ONEDNN_GEMM_H_

#include <cstdint>
#include <memory>

namespace hga {

enum class OnednnType { kF32, kBf16, kInt8 };  // kInt8: u8 times s8, without scales

// One matrix of zeros, made ready once. Uses OpenMP's team, as oneDNN does.
class OnednnGemm {
 public:
  // nullptr: oneDNN cannot multiply that on this CPU without imitating it.
  static std::unique_ptr<OnednnGemm> Create(OnednnType type, uint32_t rows, uint32_t cols, uint32_t outputs);
  ~OnednnGemm();

  // [rows][cols] times [cols][outputs], once.
  void Run();

 private:
  struct State;
  explicit OnednnGemm(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace hga

#endif  // HGA_TESTS_BENCH_ONEDNN_GEMM_H_
