// A small random model on the cpu backend, for the tests of what is measured.
#ifndef HGA_TESTS_QUALITY_SMALL_MODEL_TEST_H_
#define HGA_TESTS_QUALITY_SMALL_MODEL_TEST_H_

#include <memory>
#include <string>
#include <utility>

#include "common/base/temporary_folder.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/model/loaded_model.h"
#include "gpu_worker/model/tiny_model.h"
#include "gtest/gtest.h"

namespace hga {

class SmallModelTest : public testing::Test {
 protected:
  void SetUp() override {
    path_ = folder_.File("tiny.gguf");
    ASSERT_TRUE(WriteTinyGguf(path_, TinyModelOptions()).ok());
    auto model = LoadModel(path_);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    geometry_ = model_->weights.config.Geometry();
    BackendOptions options;
    options.threads = 1;
    auto backend = CreateBackend("cpu", model_->weights, geometry_, options);
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
  }

  TemporaryFolder folder_;
  std::string path_;
  std::unique_ptr<LoadedModel> model_;
  KvGeometry geometry_;
  std::unique_ptr<Backend> backend_;
};

}  // namespace hga

#endif  // HGA_TESTS_QUALITY_SMALL_MODEL_TEST_H_
