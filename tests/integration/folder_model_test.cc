// Models as safetensors folders through the whole stack; which models share what the store holds.
#include <csignal>
#include <filesystem>

#include "common/base/temporary_folder.h"
#include "gpu_worker/model/random_checkpoint.h"
#include "gtest/gtest.h"
#include "tests/support/requests.h"
#include "tests/support/stack.h"

namespace hga {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kPrompt = 500;
constexpr uint32_t kReusable = (kPrompt - 1) / 64 * 64;

class FolderModelTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const RandomCheckpointOptions& options) {
    const std::string folder = places_.File(name);
    fs::create_directory(folder);
    const absl::Status status = WriteRandomCheckpoint(folder, options);
    EXPECT_TRUE(status.ok()) << status;
    return folder;
  }
  // What the stack's model path leads to.
  void Lead(const std::string& folder) {
    fs::remove(places_.File("current"));
    fs::create_directory_symlink(folder, places_.File("current"));
  }
  // The worker's answer after it was started with that model.
  Answer Ask(Stack* stack, const std::string& folder, const std::string& session) {
    stack->worker.Signal(SIGTERM);
    EXPECT_TRUE(stack->worker.Wait().ok());
    Lead(folder);
    const absl::Status started = stack->StartWorker();
    EXPECT_TRUE(started.ok()) << started;
    Answer answer = stack->Generate(InSession(Dense(TokenRequest(kPrompt, 1, 16)), session));
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.tokens.size(), 16u);
    return answer;
  }

  TemporaryFolder places_;
};

TEST_F(FolderModelTest, CopiesShareAndOtherModelsDoNot) {
  RandomCheckpointOptions options;
  const std::string first = Write("first", options);
  const std::string copy = places_.File("copy");
  fs::copy(first, copy, fs::copy_options::recursive);
  options.rope_theta = 20000;
  const std::string other_rope = Write("other_rope", options);
  options.rope_theta = 10000;
  options.seed = 2;
  const std::string other_weights = Write("other_weights", options);

  Lead(first);
  StackOptions stack_options;
  stack_options.model = places_.File("current");
  Stack stack(stack_options);
  ASSERT_EQ(stack.Start(), absl::OkStatus());
  const Answer fresh = stack.Generate(InSession(Dense(TokenRequest(kPrompt, 1, 16)), "first"));
  ASSERT_TRUE(fresh.status.ok()) << fresh.status;
  EXPECT_EQ(fresh.started.reused_tokens(), 0u);

  const Answer shared = Ask(&stack, copy, "copy");
  EXPECT_EQ(shared.started.reused_tokens(), kReusable);
  EXPECT_EQ(shared.tokens, fresh.tokens);
  // Every row of their weights or their angles is another one: nothing may come from the store.
  EXPECT_EQ(Ask(&stack, other_rope, "rope").started.reused_tokens(), 0u);
  EXPECT_EQ(Ask(&stack, other_weights, "weights").started.reused_tokens(), 0u);
  EXPECT_EQ(Ask(&stack, first, "again").tokens, fresh.tokens);
}

}  // namespace
}  // namespace hga
