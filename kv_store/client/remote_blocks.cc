#include "kv_store/client/remote_blocks.h"

#include <chrono>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/rpc/limits.h"
#include "common/rpc/request_metadata.h"
#include "common/rpc/status.h"

namespace hga {
namespace {

namespace pb = kv_store::v1;
constexpr std::chrono::seconds kTransferDeadline(60);
constexpr size_t kMessageRoom = 4096;  // of a message, beside the block

void Prepare(grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + kTransferDeadline);
  SendRequestId(context);
}

// Memory of one block, counted while it lives.
struct Lease {
  explicit Lease(std::shared_ptr<std::atomic<uint64_t>> in_use, size_t bytes)
      : counter(std::move(in_use)), data(new uint8_t[bytes]) {}
  ~Lease() { --*counter; }
  const std::shared_ptr<std::atomic<uint64_t>> counter;
  const std::unique_ptr<uint8_t[]> data;
};

}  // namespace

RemoteBlocks::RemoteBlocks(const KvGeometry& geometry, uint64_t limit_bytes)
    : geometry_(geometry),
      limit_(geometry.layers == 0 ? 0 : limit_bytes / geometry.block_bytes()),
      in_use_(std::make_shared<std::atomic<uint64_t>>(0)) {}

absl::Status RemoteBlocks::Check(const KvGeometry& geometry, uint64_t limit_bytes) {
  if (geometry.layers == 0) return absl::InvalidArgumentError("blocks as bytes need a geometry");
  if (geometry.block_bytes() + kMessageRoom > kMaxMessageBytes) {
    return absl::InvalidArgumentError(absl::StrCat("blocks of ", geometry.block_bytes(),
                                                   " bytes do not fit a message of ", kMaxMessageBytes,
                                                   "; run the worker on kv_store's host"));
  }
  if (limit_bytes / geometry.block_bytes() >= geometry.layers) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("room for ", limit_bytes, " bytes of K/V is less than one chunk, ",
                                                 geometry.block_bytes() * geometry.layers));
}

absl::StatusOr<HeldBlock> RemoteBlocks::Make() {
  if (++*in_use_ > limit_) {
    --*in_use_;
    return absl::ResourceExhaustedError(
        absl::StrCat("all room for K/V from another host, ", limit_, " blocks, is held; retry in 20 ms"));
  }
  auto lease = std::make_shared<Lease>(in_use_, geometry_.block_bytes());
  void* data = lease->data.get();
  // The memory goes with the hold's share of the releaser; nobody is told.
  return HeldBlock(data, 0, std::make_shared<const HeldBlock::Releaser>([lease](uint32_t) {}));
}

absl::StatusOr<std::vector<HeldBlock>> RemoteBlocks::Reserve(uint32_t count) {
  if (count == 0) return absl::InvalidArgumentError("Reserve: at least 1 slot");
  std::vector<HeldBlock> blocks;
  for (uint32_t i = 0; i < count; ++i) {
    HGA_ASSIGN_OR_RETURN(HeldBlock block, Make());
    blocks.push_back(std::move(block));
  }
  return blocks;
}

FetchedBlock RemoteBlocks::Receive(const pb::FetchedBytes& message, const types::v1::BlockName& name) {
  FetchedBlock result;
  result.found_in = message.tier() == pb::FetchResult::TIER_DISK ? FoundIn::kDisk : FoundIn::kRam;
  const std::string what =
      absl::StrCat("chunk ", absl::BytesToHexString(name.chunk_hash()), " layer ", name.layer());
  if (message.code() != 0) {
    result.status = absl::Status(static_cast<absl::StatusCode>(message.code()), what);
    return result;
  }
  if (message.data().size() != geometry_.block_bytes()) {
    result.status = absl::InternalError(absl::StrCat(what, ": ", message.data().size(), " bytes"));
    return result;
  }
  auto block = Make();
  if (!block.ok()) {
    result.status = block.status();
    return result;
  }
  std::memcpy(block->data(), message.data().data(), message.data().size());
  // Over the copy, which is what will be read.
  if (BlockChecksum(block->data(), message.data().size()) != message.checksum()) {
    result.status = absl::UnavailableError(absl::StrCat(what, ": damaged on its way here"));
    return result;
  }
  result.block = *std::move(block);
  return result;
}

absl::Status RemoteBlocks::Fetch(pb::KvStore::Stub* stub, const pb::FetchRequest& request,
                                 absl::FunctionRef<void(FetchedBlock)> take) {
  grpc::ClientContext context;
  Prepare(&context);
  const auto stream = stub->FetchBlocks(&context, request);
  pb::FetchedBytes message;
  int received = 0;
  bool too_many = false;
  while (!too_many && stream->Read(&message)) {
    too_many = received == request.blocks_size();
    if (!too_many) take(Receive(message, request.blocks(received++)));
  }
  if (too_many) context.TryCancel();
  const absl::Status status = FromGrpc(stream->Finish());
  if (!status.ok() && !too_many) return status;
  if (!too_many && received == request.blocks_size()) return absl::OkStatus();
  return absl::InternalError("kv_store answered for another number of blocks");
}

absl::StatusOr<bool> RemoteBlocks::Put(pb::KvStore::Stub* stub, const pb::CommitRequest& chunk,
                                       const std::vector<HeldBlock>& blocks) const {
  grpc::ClientContext context;
  Prepare(&context);
  pb::CommitResponse response;
  const auto stream = stub->PutBlocks(&context, &response);
  pb::PutBlocksRequest part;
  *part.mutable_commit() = chunk;
  bool open = stream->Write(part);
  for (size_t i = 0; open && i < blocks.size(); ++i) {
    part.set_block(blocks[i].data(), geometry_.block_bytes());
    open = stream->Write(part);  // false: refused; Finish says why
  }
  stream->WritesDone();
  HGA_RETURN_IF_ERROR(FromGrpc(stream->Finish()));
  return response.duplicate();
}

}  // namespace hga
