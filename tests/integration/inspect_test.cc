// `hga model inspect` as a user runs it: two binaries, no daemon.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "common/base/temporary_folder.h"
#include "gpu_worker/model/tiny_model.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

struct Result {
  int exit_code;
  std::string output;  // both streams
};

Result Hga(const std::string& arguments) {
  const std::string binary = std::string(std::getenv("TEST_SRCDIR")) + "/hga_serve/client/hga";
  FILE* pipe = ::popen((binary + " model inspect " + arguments + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return {-1, ""};
  std::string output;
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
  return {WEXITSTATUS(::pclose(pipe)), output};
}

TEST(InspectTest, TableJsonAndErrors) {
  TemporaryFolder folder;
  const std::string model = folder.File("tiny.gguf");
  ASSERT_TRUE(WriteTinyGguf(model, TinyModelOptions()).ok());

  const Result table = Hga(model + " --context 4096 --device-memory 2GiB");
  EXPECT_EQ(table.exit_code, 0) << table.output;
  EXPECT_NE(table.output.find("GPU memory at 4096 tokens"), std::string::npos) << table.output;
  EXPECT_NE(table.output.find("Fits into 2.0 GiB"), std::string::npos) << table.output;

  const Result json = Hga(model + " --json");
  EXPECT_EQ(json.exit_code, 0) << json.output;
  const auto parsed = nlohmann::json::parse(json.output, nullptr, false);
  ASSERT_TRUE(parsed.is_object()) << json.output;
  EXPECT_EQ(parsed["kv_bytes_per_token"], 256);

  const Result missing = Hga(folder.File("none.gguf"));
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_NE(missing.output.find("none.gguf"), std::string::npos) << missing.output;
  EXPECT_EQ(Hga(model + " --device-memory soon").exit_code, 2);
}

}  // namespace
}  // namespace hga
