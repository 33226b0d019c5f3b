#include "client/document.h"

#include <fstream>

#include "common/kv/ids.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hga {
namespace {

std::string WriteFile(const std::string& name, const std::string& content) {
  const std::string path = testing::TempDir() + "/" + name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

TEST(DocumentTest, ReadsBytesAsTheyAre) {
  const std::string text = "line\r\nna\xc3\xafve\n";
  const auto read = ReadDocument(WriteFile("a.txt", text));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, text);
}

TEST(DocumentTest, SaysWhatIsWrong) {
  EXPECT_EQ(ReadDocument("/nonexistent/a.txt").status().code(), absl::StatusCode::kNotFound);
  const auto message = [](const std::string& content) {
    const absl::Status status = ReadDocument(WriteFile("b.txt", content)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message(""), testing::HasSubstr("is empty"));
  EXPECT_THAT(message(" \n\t"), testing::HasSubstr("is empty"));
  EXPECT_THAT(message("abc\xe9t\xe9"), testing::HasSubstr("not UTF-8 text (byte 3)"));
  EXPECT_EQ(ReadDocument(testing::TempDir()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(DocumentTest, SessionDependsOnTheBytesOnly) {
  const std::string name = DocumentSession("text");
  EXPECT_EQ(name, DocumentSession("text"));
  EXPECT_NE(name, DocumentSession("text "));
  EXPECT_EQ(name.size(), 4 + 32);
  EXPECT_EQ(name.substr(0, 4), "doc-");
  EXPECT_TRUE(ValidateSessionName(name).ok());
}

TEST(DocumentTest, QuestionsShareTheBeginning) {
  const std::string common = DocumentThenQuestion("text\n\n", "");
  EXPECT_EQ(common, "text\n\n");
  EXPECT_EQ(DocumentThenQuestion("text\n", "why?"), common + "why?");
}

}  // namespace
}  // namespace hga
