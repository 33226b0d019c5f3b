// The real model that tests use where HGA_MODEL_DIR says where it is.
#ifndef HGA_GPU_WORKER_MODEL_TEST_MODEL_DIR_H_
#define HGA_GPU_WORKER_MODEL_TEST_MODEL_DIR_H_

#include <cstdlib>
#include <string>

namespace hga {

// "" where HGA_MODEL_DIR is not set.
inline std::string RealModelPath() {
  const char* folder = std::getenv("HGA_MODEL_DIR");
  return folder == nullptr || *folder == '\0' ? "" : std::string(folder) + "/SmolLM2-135M-Instruct.Q4_1.gguf";
}

constexpr char kNoRealModel[] = "HGA_MODEL_DIR is not set: put SmolLM2-135M-Instruct.Q4_1.gguf there and name it";

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TEST_MODEL_DIR_H_
