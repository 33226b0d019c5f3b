#include "kv_store/tool/served_store.h"

#include <algorithm>

#include "gtest/gtest.h"
#include "kv_store/client/grpc_kv_client.h"
#include "kv_store/service/testing_daemon.h"
#include "kv_store/tool/testing_book.h"

namespace hga {
namespace {

using absl::StatusCode;

// With the service, its arena and RocksDB in this process.
class ServedStoreTest : public BookTest {
 protected:
  ServedStoreTest() : BookTest(GeometryOfPages(), 3) {}

  absl::StatusOr<std::string> Import(const std::string& as) {
    std::istringstream in(Export());
    auto file = SessionFileReader::Open(&in);
    if (!file.ok()) return file.status();
    return ImportServed(daemon_.address(), as, &*file, nullptr);
  }
  bool Holds(const std::string& name) {
    const auto client = GrpcKvClient::Attach({daemon_.address(), "test", g_});
    if (!client.ok() || !(*client)->GetSession(name, model_).ok()) return false;
    const auto got = (*client)->Fetch({{hashes_[1], 2}});
    const auto expected = Block(1, 2);
    return got.ok() && (*got)[0].status.ok() &&
           std::equal(expected.begin(), expected.end(), reinterpret_cast<uint8_t*>((*got)[0].block.data()));
  }

  TestingDaemon daemon_;
};

TEST_F(ServedStoreTest, ImportedIsDurable) {
  ASSERT_TRUE(daemon_.Start(4 << 20).ok());
  const auto name = Import("copy");
  ASSERT_TRUE(name.ok()) << name.status();
  EXPECT_TRUE(Holds("copy"));
  daemon_.Stop(/*flush=*/false);
  ASSERT_TRUE(daemon_.Start(4 << 20).ok());
  EXPECT_TRUE(Holds("copy"));
  EXPECT_EQ(Import("copy").status().code(), StatusCode::kAlreadyExists);
}

TEST_F(ServedStoreTest, CompactGivesTheRoomBackAndKeepsTheRest) {
  ASSERT_TRUE(daemon_.Start(4 << 20).ok());
  ASSERT_TRUE(Import("keep").ok());
  const auto bytes = CompactServed(daemon_.address(), nullptr);
  ASSERT_TRUE(bytes.ok()) << bytes.status();
  EXPECT_GT(bytes->first, 0u);
  EXPECT_EQ(bytes->second, daemon_.loop()->DiskStats().disk_bytes);
  daemon_.Stop(/*flush=*/false);
  ASSERT_TRUE(daemon_.Start(4 << 20).ok());
  EXPECT_TRUE(Holds("keep"));
}

TEST_F(ServedStoreTest, NobodyThereIsUnavailable) {
  EXPECT_EQ(CompactServed("unix:/tmp/hga-nobody.sock", nullptr).status().code(), StatusCode::kUnavailable);
  EXPECT_EQ(CompactServed("nowhere", nullptr).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace hga
