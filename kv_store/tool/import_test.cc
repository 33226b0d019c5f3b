#include "kv_store/tool/import.h"

#include <algorithm>

#include "gtest/gtest.h"
#include "kv_store/client/memory_kv_client.h"
#include "kv_store/tool/maintenance.h"
#include "kv_store/tool/testing_book.h"

namespace hga {
namespace {

using absl::StatusCode;

template <typename Store>
absl::StatusOr<std::string> Import(Store* store, const std::string& bytes, const std::string& as = "",
                                   const Progress& progress = nullptr) {
  std::istringstream in(bytes);
  auto file = SessionFileReader::Open(&in);
  if (!file.ok()) return file.status();
  return ImportSession(store, as, &*file, progress);
}

using ImportTest = BookTest;

class WholeBookTest : public BookTest {
 protected:
  WholeBookTest() : BookTest(SmallGeometry(), 3) {}

  bool Holds(MemoryKvClient* store, const std::string& name) {
    const auto tokens = store->GetSession(name, model_);
    if (!tokens.ok() || tokens->size() != 13) return false;
    for (size_t i = 0; i < 3; ++i) {
      for (uint32_t layer = 0; layer < g_.layers; ++layer) {
        const auto got = store->Fetch({{hashes_[i], layer}});
        if (!got.ok() || !(*got)[0].status.ok()) return false;
        const auto expected = Block(i, layer);
        if (!std::equal(expected.begin(), expected.end(), reinterpret_cast<uint8_t*>((*got)[0].block.data()))) {
          return false;
        }
      }
    }
    return true;
  }
};

TEST_F(ImportTest, ASessionGoesOutAndIn) {
  const std::string file = Export();
  MemoryTier other;
  const auto name = Import(&other, file, "copy");
  ASSERT_TRUE(name.ok()) << name.status();
  EXPECT_EQ(*name, "copy");
  const auto report = InspectStore(&other, true, nullptr);
  EXPECT_EQ(report->problem_count, 0u);
  EXPECT_EQ(report->tokens, 13u);
  EXPECT_EQ(report->chunks, 2u);
  EXPECT_EQ(Import(&other, file, "copy").status().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(Import(&other, file, "../x").status().code(), StatusCode::kInvalidArgument);
  std::ostringstream none;
  EXPECT_EQ(ExportSession(&tier_, "none", &none).code(), StatusCode::kNotFound);
}

TEST_F(ImportTest, GarbageIsRefused) {
  const std::string file = Export();
  for (size_t i = 0; i < file.size(); ++i) {
    MemoryTier other;
    std::string bad = file;
    bad[i] ^= 0x41;
    EXPECT_FALSE(Import(&other, bad).ok()) << "flipped byte " << i;
    EXPECT_FALSE(Import(&other, file.substr(0, i)).ok()) << "cut at " << i;
    EXPECT_TRUE(other.SessionNames().empty());
  }
  MemoryTier other;
  EXPECT_FALSE(Import(&other, file + "x").ok());
  KvGeometry shape = g_;
  shape.head_dim = 16;
  ASSERT_TRUE(other.SetGeometry(shape).ok());
  EXPECT_EQ(Import(&other, file).status().code(), StatusCode::kFailedPrecondition);
}

TEST_F(WholeBookTest, ThroughAKvStore) {
  const std::string file = Export();
  MemoryKvClient store(g_);
  uint64_t shown = 0;
  const auto name = Import(&store, file, "copy", [&](uint64_t done, uint64_t all) {
    EXPECT_EQ(all, 3u);
    EXPECT_EQ(done, ++shown);
    EXPECT_EQ(store.GetSession("copy", model_).status().code(), StatusCode::kNotFound) << "half of it is visible";
  });
  ASSERT_TRUE(name.ok()) << name.status();
  EXPECT_EQ(*name, "copy");
  EXPECT_EQ(shown, 3u);
  EXPECT_TRUE(Holds(&store, "copy"));
  EXPECT_FALSE((*store.ListSessions())[0].open);
  EXPECT_FALSE((*store.ListSessions())[0].pinned);
}

TEST_F(WholeBookTest, WhatTheStoreHasIsNotSent) {
  const std::string file = Export();
  MemoryKvClient store(g_);
  ASSERT_TRUE(Import(&store, file, "first").ok());
  const uint64_t before = store.rpc_count();
  ASSERT_TRUE(Import(&store, file, "second").ok());
  EXPECT_EQ(store.rpc_count() - before, 4u) << "open, is it free, update, close";
  EXPECT_TRUE(Holds(&store, "second"));
  EXPECT_EQ(store.GetStats()->chunks, 3u);
}

TEST_F(WholeBookTest, ATakenNameIsLeftAsItIs) {
  const std::string file = Export();
  MemoryKvClient store(g_);
  ASSERT_TRUE(Import(&store, file).ok());
  EXPECT_EQ(Import(&store, file).status().code(), StatusCode::kAlreadyExists);
  EXPECT_TRUE(Holds(&store, "book"));
  EXPECT_EQ(Import(&store, file, "../x").status().code(), StatusCode::kInvalidArgument);
  const auto writer = store.OpenSession("new", model_, {});
  EXPECT_EQ(Import(&store, file, "new").status().code(), StatusCode::kFailedPrecondition) << "somebody writes it";
}

TEST_F(WholeBookTest, AFailureLeavesNothingAndASecondTryWorks) {
  const std::string file = Export();
  MemoryKvClient store(g_);
  EXPECT_FALSE(Import(&store, file.substr(0, file.size() - 10)).ok());
  EXPECT_TRUE(store.ListSessions()->empty());
  EXPECT_EQ(store.GetStats()->chunks, 0u);
  EXPECT_EQ(store.GetStats()->slots_held, 0u);
  EXPECT_FALSE(Import(&store, file + "x").ok());
  EXPECT_TRUE(store.ListSessions()->empty());
  EXPECT_TRUE(Import(&store, file).ok());
  EXPECT_TRUE(Holds(&store, "book"));
}

TEST_F(WholeBookTest, AStoreShortOfRoomIsWaitedFor) {
  const std::string file = Export();
  MemoryKvClient store(g_);
  bool refused = false;
  const auto name = Import(&store, file, "", [&](uint64_t, uint64_t) {
    if (!refused) store.FailNext(absl::ResourceExhaustedError("retry"));
    refused = true;
  });
  EXPECT_TRUE(name.ok()) << name.status();
  EXPECT_TRUE(Holds(&store, "book"));
}

TEST_F(WholeBookTest, PinsComeAlong) {
  WriteStep step;
  step.put_sessions.push_back({"book", model_, 1, 5, hashes_, {7}, true});
  ASSERT_TRUE(tier_.Write(step).ok());
  MemoryKvClient store(g_);
  ASSERT_TRUE(Import(&store, Export()).ok());
  EXPECT_TRUE((*store.ListSessions())[0].pinned);
}

TEST_F(ImportTest, AKvStoreTakesNoChunkWithoutKv) {
  MemoryKvClient store(g_);
  const auto name = Import(&store, Export());
  EXPECT_EQ(name.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(std::string(name.status().message()).find("chunk 2 of 3"), std::string::npos) << name.status();
  EXPECT_TRUE(store.ListSessions()->empty());
}

}  // namespace
}  // namespace hga
