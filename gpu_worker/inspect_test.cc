#include "gpu_worker/inspect.h"

#include <sstream>
#include <string>

#include "common/base/temporary_folder.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gpu_worker/model/tiny_model.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

class InspectTest : public ::testing::Test {
 protected:
  std::string Run(const InspectOptions& options) {
    std::ostringstream out;
    const absl::Status status = Inspect(options, EngineOptions(), out);
    EXPECT_TRUE(status.ok()) << status;
    return out.str();
  }
  nlohmann::json RunJson(InspectOptions options) {
    options.json = "-";
    return nlohmann::json::parse(Run(options));
  }

  TemporaryFolder folder_;
};

// The whole published checkpoint, 31 GB of holes: only headers are read.
TEST_F(InspectTest, PublishedQwen3MoeFp8) {
  RandomCheckpointOptions o = Qwen3Moe30bFp8(48);
  o.holes = true;
  o.shard_bytes = 4 * kGiB;
  ASSERT_TRUE(WriteRandomCheckpoint(folder_.path(), o).ok());
  const auto json = RunJson({folder_.path(), 65536, 32 * kGiB});
  EXPECT_EQ(json["architecture"], "qwen3moe");
  EXPECT_EQ(json["files"], 8);
  EXPECT_NEAR(json["parameters"].get<double>(), 30.53e9, 0.01e9);
  EXPECT_EQ(json["kv_bytes_per_token"], 96 << 10);
  EXPECT_EQ(json["kv_bytes_per_token_int8"], (96 << 10) * 33 / 64);
  EXPECT_EQ(json["model_context_tokens"], 262144);
  EXPECT_EQ(json["host"]["kv_store"], 6 * kGiB);  // 64K tokens
  EXPECT_EQ(json["types"]["F8_E4M3"]["tensors"], 48 * (4 + 3 * 128));
  const auto& device = json["device"];
  const uint64_t required = device["required"];
  EXPECT_NEAR(device["weights"].get<double>(), 28.5 * kGiB, 0.1 * kGiB);  // the embedding is on the host
  EXPECT_EQ(required, device["weights"].get<uint64_t>() + device["runtime"].get<uint64_t>() +
                          device["workspace"].get<uint64_t>() + device["window"].get<uint64_t>());
  EXPECT_EQ(device["step_kv"], uint64_t{4} * (4 + 64 + 64 + 2318) * (96 << 10));
  EXPECT_EQ(json["fits"], true);
  EXPECT_EQ(RunJson({folder_.path(), 65536, required})["fits"], true);
  EXPECT_EQ(RunJson({folder_.path(), 65536, required - 1})["fits"], false);
  // The context is the host's matter.
  const auto longer = RunJson({folder_.path(), 1 << 20, 32 * kGiB});
  EXPECT_EQ(longer["device"]["required"], required);
  EXPECT_EQ(longer["host"]["kv_store"], 96 * kGiB);
}

TEST_F(InspectTest, GgufAsATable) {
  ASSERT_TRUE(WriteTinyGguf(folder_.File("tiny.gguf"), TinyModelOptions()).ok());
  const std::string table = Run({folder_.File("tiny.gguf"), 0, kGiB});
  EXPECT_NE(table.find("architecture          llama"), std::string::npos) << table;
  EXPECT_NE(table.find("heads                 4 query, 2 K/V, of 16"), std::string::npos) << table;
  EXPECT_NE(table.find("K/V per token         256 B; as int8 "), std::string::npos) << table;
  EXPECT_NE(table.find("GPU memory at 2048 tokens"), std::string::npos) << table;
  EXPECT_NE(table.find("Fits into 1.0 GiB"), std::string::npos) << table;
  EXPECT_NE(Run({folder_.File("tiny.gguf"), 0, 1 << 20}).find("Does not fit into 1.0 MiB"), std::string::npos);
  EXPECT_NE(Run({folder_.File("tiny.gguf")}).find("give --device_memory"), std::string::npos);
  EXPECT_FALSE(RunJson({folder_.File("tiny.gguf")}).contains("fits"));
}

TEST_F(InspectTest, JsonGoesIntoAFile) {
  ASSERT_TRUE(WriteTinyGguf(folder_.File("tiny.gguf"), TinyModelOptions()).ok());
  EXPECT_EQ(Run({folder_.File("tiny.gguf"), 0, 0, folder_.File("out.json")}), "");
  EXPECT_EQ(nlohmann::json::parse(folder_.Read("out.json"))["format"], "GGUF");
  std::ostringstream out;
  EXPECT_EQ(Inspect({folder_.File("tiny.gguf"), 0, 0, "/nowhere/out.json"}, EngineOptions(), out).code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(InspectTest, ErrorsAreThoseOfLoading) {
  std::ostringstream out;
  EXPECT_EQ(Inspect({"/nowhere/model.gguf"}, EngineOptions(), out).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Inspect({folder_.path()}, EngineOptions(), out).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace hga
