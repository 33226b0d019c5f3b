// A client of kv_store that holds slots until it is killed: slot_holder ADDRESS SLOTS [fork]
// Prints "holding N N N ...". With `fork` a child of it keeps the arena mapped: "child PID" comes first.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "kv_store/client/grpc_kv_client.h"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  hga::KvGeometry g;
  g.layers = 2;
  g.query_heads = g.kv_heads = 1;
  g.head_dim = 16;
  auto client = hga::GrpcKvClient::Attach({argv[1], "slot_holder", g});
  if (!client.ok()) return std::fprintf(stderr, "%s\n", std::string(client.status().message()).c_str()), 1;
  const auto blocks = (*client)->Reserve(static_cast<uint32_t>(std::atoi(argv[2])));
  if (!blocks.ok()) return std::fprintf(stderr, "%s\n", std::string(blocks.status().message()).c_str()), 1;
  if (argc > 3) {
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
  for (;;) ::pause();
}
