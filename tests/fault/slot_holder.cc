// A client of kv_store that holds slots until it is killed: slot_holder ADDRESS SLOTS [fork|fetch]
// Prints "holding N N N ...". With `fork` a child of it keeps the arena mapped: "child PID" comes first. With `fetch`
// it takes and gives back holds without a pause, over its ring.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kv_store/client/grpc_kv_client.h"

namespace {

int FetchForEver(hga::GrpcKvClient* client, const hga::KvGeometry& g, std::vector<hga::HeldBlock> blocks) {
  const hga::ModelFingerprint model = hga::HashBytes("model");
  const std::vector<uint32_t> tokens(g.chunk_tokens, static_cast<uint32_t>(::getpid()));
  const hga::ChunkHash hash = hga::ChunkHashes(model, g, tokens)[0];
  const auto session = client->OpenSession("", model, {});
  if (!session.ok()) return 1;
  hga::CommitChunk chunk{hash, hga::SeedHash(model, g), tokens, {}, "mean", "s"};
  for (uint32_t layer = 0; layer < g.layers; ++layer) {
    std::memset(blocks.back().data(), 1, g.block_bytes());
    chunk.blocks.push_back(std::move(blocks.back()));
    blocks.pop_back();
  }
  if (!client->Commit(*session, std::move(chunk)).ok()) return 1;
  for (;;) {
    const auto fetched = client->Fetch({{hash, 0}, {hash, 1}});
    if (!fetched.ok() || !(*fetched)[1].status.ok()) return 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  hga::KvGeometry g;
  g.layers = 2;
  g.query_heads = g.kv_heads = 1;
  g.head_dim = 16;
  auto client = hga::GrpcKvClient::Attach({argv[1], "slot_holder", g});
  if (!client.ok()) return std::fprintf(stderr, "%s\n", std::string(client.status().message()).c_str()), 1;
  auto blocks = (*client)->Reserve(static_cast<uint32_t>(std::atoi(argv[2])));
  if (!blocks.ok()) return std::fprintf(stderr, "%s\n", std::string(blocks.status().message()).c_str()), 1;
  const std::string then = argc > 3 ? argv[3] : "";
  if (then == "fork") {
    const pid_t child = ::fork();
    if (child == 0) {
      // Only the arena stays: with the connection the store would not notice that the parent is gone.
      for (int fd = 3; fd < 1024; ++fd) {
        struct stat what;
        if (::fstat(fd, &what) == 0 && S_ISSOCK(what.st_mode)) ::close(fd);
      }
      for (;;) ::pause();
    }
    std::printf("child %d\n", static_cast<int>(child));
  }
  std::printf("holding");
  for (const hga::HeldBlock& block : *blocks) std::printf(" %u", block.slot());
  std::printf(" end\n");
  std::fflush(stdout);
  if (then == "fetch") return FetchForEver(client->get(), g, *std::move(blocks));
  for (;;) ::pause();
}
