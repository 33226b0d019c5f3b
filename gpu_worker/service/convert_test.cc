#include "gpu_worker/service/convert.h"

#include <string>

#include "gpu_worker/model/tokenizer_test_data.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

using gpu_worker::v1::GenerateRequest;

constexpr uint32_t kStart = 1, kEnd = 2;  // ids of the control tokens; byte b is 3 + b

class ConvertTest : public ::testing::Test {
 protected:
  void SetUp() override { Make(/*add_bos=*/true); }

  void Make(bool add_bos) {
    TokenizerData data = ByteVocabulary({"<s>", "<|im_start|>", "<|im_end|>"});
    data.bos = 0;
    data.add_bos = add_bos;
    model_.tokenizer = Tokenizer::Create(std::move(data)).value();
    model_.chat_template = ChatTemplate::Create(*FindChatStyle("qwen3"), model_.tokenizer.get());
  }
  std::string Text(absl::Span<const uint32_t> ids) {
    std::string text;
    for (uint32_t id : ids) text += model_.tokenizer->TokenBytes(id);
    return text;
  }
  EngineRequest Convert(const GenerateRequest& request) {
    auto converted = ToEngineRequest(model_, BudgetOptions(), request);
    EXPECT_TRUE(converted.ok()) << converted.status();
    return *std::move(converted);
  }

  LoadedModel model_;
};

TEST_F(ConvertTest, TextBeginsWithBosWhereTheModelWantsIt) {
  GenerateRequest request;
  request.set_text("a");
  EXPECT_EQ(Convert(request).tokens, (std::vector<uint32_t>{0, 3 + 'a'}));
  request.set_session("s");
  request.set_append(true);
  EXPECT_EQ(Convert(request).tokens, std::vector<uint32_t>{3 + 'a'});  // it continues what has one
  Make(/*add_bos=*/false);
  request.set_append(false);
  EXPECT_EQ(Convert(request).tokens, std::vector<uint32_t>{3 + 'a'});
}

TEST_F(ConvertTest, SharingOfTheBudgetIsTheWorkersUnlessItIsAskedFor) {
  GenerateRequest request;
  request.set_text("a");
  const BudgetOptions plain;
  EXPECT_EQ(Convert(request).budget.shared, plain.shared);
  EXPECT_EQ(Convert(request).budget.least_share, plain.least_share);
  EXPECT_EQ(Convert(request).budget.residual, plain.residual);
  auto* attention = request.mutable_attention();
  attention->set_budget_sharing(gpu_worker::v1::Attention::SHARING_FIXED);
  attention->set_budget_layer_cap(3);
  attention->set_budget_least_share(0);
  attention->set_budget_top_p(0.5f);
  attention->set_residual(!plain.residual);
  const BudgetOptions asked = Convert(request).budget;
  EXPECT_FALSE(asked.shared);
  EXPECT_EQ(asked.layer_cap, 3);
  EXPECT_EQ(asked.least_share, 0);
  EXPECT_EQ(asked.top_p, 0.5f);
  EXPECT_EQ(asked.residual, !plain.residual);
}

TEST_F(ConvertTest, ANamedBudgetIsKeptToWhereTheHistoryIsShortOrLong) {
  GenerateRequest request;
  request.set_text("a");
  EXPECT_EQ(Convert(request).budget.dense_decode_tokens, BudgetOptions().dense_decode_tokens);
  EXPECT_EQ(Convert(request).budget.linear_tokens, BudgetOptions().linear_tokens);
  auto* attention = request.mutable_attention();
  attention->set_budget_max_tokens(256);
  EXPECT_EQ(Convert(request).budget.dense_decode_tokens, 0u);
  EXPECT_EQ(Convert(request).budget.linear_tokens, kAlwaysLinear);
  attention->set_dense_decode_tokens(300);
  attention->set_budget_linear_tokens(700);
  EXPECT_EQ(Convert(request).budget.dense_decode_tokens, 300u);
  EXPECT_EQ(Convert(request).budget.linear_tokens, 700u);
  attention->clear_budget_max_tokens();
  attention->set_dense_decode_tokens(0);
  EXPECT_EQ(Convert(request).budget.dense_decode_tokens, 0u);
}

TEST_F(ConvertTest, ThinkingIsOnUnlessItIsSwitchedOff) {
  GenerateRequest request;
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("hi");
  const std::string chat = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
  const std::string no_thoughts = "<think>\n\n</think>\n\n";
  EXPECT_EQ(Text(Convert(request).tokens), chat);
  request.set_no_thinking(true);
  EXPECT_EQ(Text(Convert(request).tokens), chat + no_thoughts);
  request.set_session("s");
  request.set_append(true);
  const uint32_t session[] = {kStart, 3 + 'x', kEnd};
  EXPECT_EQ(Text(Convert(request).continuation(session).value()), "\n" + chat + no_thoughts);
}

}  // namespace
}  // namespace hga
