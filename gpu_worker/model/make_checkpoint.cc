// Writes a checkpoint with made-up weights into a folder that is there.
#include <cstdio>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "gpu_worker/model/random_checkpoint.h"

ABSL_FLAG(std::string, out, "", "folder to write into; it must be there");
ABSL_FLAG(std::string, shape, "tiny", "tiny, or qwen3-30b-a3b-fp8: as published");
ABSL_FLAG(uint32_t, layers, 2, "layers; as published: 48");
ABSL_FLAG(bool, holes, false, "matrices are zeros that take no room on the disk");
ABSL_FLAG(uint64_t, shard_bytes, UINT64_MAX, "most bytes of one file");

int main(int argc, char** argv) {
  absl::ParseCommandLine(argc, argv);
  hga::RandomCheckpointOptions options;
  const std::string shape = absl::GetFlag(FLAGS_shape);
  if (shape == "qwen3-30b-a3b-fp8") {
    options = hga::Qwen3Moe30bFp8(absl::GetFlag(FLAGS_layers));
  } else if (shape != "tiny") {
    std::fprintf(stderr, "make_checkpoint: --shape '%s': must be tiny or qwen3-30b-a3b-fp8\n", shape.c_str());
    return 2;
  }
  options.layers = absl::GetFlag(FLAGS_layers);
  options.holes = absl::GetFlag(FLAGS_holes);
  options.shard_bytes = absl::GetFlag(FLAGS_shard_bytes);
  const absl::Status status = hga::WriteRandomCheckpoint(absl::GetFlag(FLAGS_out), options);
  if (!status.ok()) std::fprintf(stderr, "make_checkpoint: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
