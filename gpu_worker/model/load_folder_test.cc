// LoadModel of a folder; of a GGUF file: loaded_model_test.cc.
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "common/base/temporary_folder.h"
#include "gpu_worker/model/loaded_model.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

class LoadFolderTest : public ::testing::Test {
 protected:
  void Write(const RandomCheckpointOptions& options = {}) {
    const absl::Status status = WriteRandomCheckpoint(folder_.path(), options);
    ASSERT_TRUE(status.ok()) << status;
  }
  void ExpectRefused(const std::string& path, absl::StatusCode code, const std::string& what) {
    const absl::Status status = LoadModel(path).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), what)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), path)) << status;
  }

  const absl::StatusCode invalid_ = absl::StatusCode::kInvalidArgument, missing_ = absl::StatusCode::kNotFound;
  TemporaryFolder folder_;
};

TEST_F(LoadFolderTest, WeightsTokenizerAndTemplateComeFromTheFolder) {
  RandomCheckpointOptions options;
  options.vocab_size = 320;  // padded: the tokenizer has 259
  Write(options);
  std::vector<double> progress;
  const auto model = LoadModel(folder_.path(), "", [&](double done) { progress.push_back(done); });
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->weights.config.vocab_size, 320u);
  EXPECT_EQ((*model)->weights.config.name, std::filesystem::path(folder_.path()).filename().string());
  EXPECT_EQ((*model)->tokenizer->vocab_size(), 259u);
  EXPECT_EQ((*model)->tokenizer->eos(), 2u);
  EXPECT_EQ(*(*model)->tokenizer->Encode("hi", false), (std::vector<uint32_t>{
      *(*model)->tokenizer->FindToken("h"), *(*model)->tokenizer->FindToken("i")}));
  EXPECT_TRUE((*model)->chat_template.ok()) << (*model)->chat_template.status();
  EXPECT_GT((*model)->parameters, 0u);
  EXPECT_GT((*model)->load_peak_bytes, 1u << 20);
  ASSERT_FALSE(progress.empty());
  EXPECT_EQ(progress.front(), 0);
}

TEST_F(LoadFolderTest, CopyHasTheSameFingerprintAndChangesHaveAnother) {
  Write();
  const auto first = LoadModel(folder_.path());
  ASSERT_TRUE(first.ok()) << first.status();
  TemporaryFolder other;
  std::filesystem::copy(folder_.path(), other.path(), std::filesystem::copy_options::recursive);
  EXPECT_EQ((*LoadModel(other.path()))->fingerprint, (*first)->fingerprint);
  auto config = CheckpointConfig(RandomCheckpointOptions());
  config["rope_theta"] = 10001.0;
  other.Write("config.json", config.dump());
  EXPECT_NE((*LoadModel(other.path()))->fingerprint, (*first)->fingerprint);
}

TEST_F(LoadFolderTest, RefusesOtherPaths) {
  ExpectRefused(folder_.path(), missing_, "has no config.json; expected config.json, tokenizer.json and safetensors");
  Write();
  ExpectRefused(folder_.File("model.safetensors"), invalid_, "name the folder that holds it");
  ExpectRefused(folder_.File("config.json"), invalid_, "name the folder that holds it");
  std::filesystem::remove(folder_.File("tokenizer.json"));
  ExpectRefused(folder_.path(), missing_, "tokenizer.json");
}

TEST_F(LoadFolderTest, RefusesATokenizerOfAnotherModel) {
  RandomCheckpointOptions options;
  options.vocab_size = 200;
  Write(options);
  ExpectRefused(folder_.path(), invalid_, "tokenizer.json has 259 tokens, but config.json's vocab_size is 200");
}

}  // namespace
}  // namespace hga
