#include "kv_store/service/block_bytes.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "kv_store/service/convert.h"

namespace hga {
namespace {

namespace pb = kv_store::v1;
constexpr size_t kBytesAtOnce = 4 << 20;  // copied before slots are released and sending begins

// The block in the slot; DATA_LOSS if it is not what it was.
pb::FetchedBytes Copy(const Transfer& transfer, const FetchOutcome& outcome) {
  pb::FetchedBytes block;
  block.set_code(static_cast<int>(outcome.status.code()));
  block.set_tier(outcome.from_disk ? pb::FetchResult::TIER_DISK : pb::FetchResult::TIER_RAM);
  if (!outcome.status.ok()) return block;
  block.set_checksum(outcome.checksum);
  block.set_data(transfer.Slot(outcome.slot), transfer.geometry().block_bytes());
  if (BlockChecksum(block.data().data(), block.data().size()) == outcome.checksum) return block;
  block.clear_data();
  block.set_code(static_cast<int>(absl::StatusCode::kDataLoss));
  return block;
}

// The copies are checked, every one: what is damaged in RAM is read from disk, where it is there.
absl::StatusOr<std::vector<pb::FetchedBytes>> CopySome(StoreLoop* loop, ClientId client, const Transfer& transfer,
                                                       const std::vector<BlockName>& names) {
  HGA_ASSIGN_OR_RETURN(const auto outcomes, loop->Fetch(client, WholeBlocks(names)));
  std::vector<pb::FetchedBytes> blocks;
  std::vector<uint32_t> slots;
  std::vector<size_t> damaged;
  for (size_t i = 0; i < names.size(); ++i) {
    blocks.push_back(Copy(transfer, outcomes[i]));
    if (!outcomes[i].status.ok()) continue;
    slots.push_back(outcomes[i].slot);
    if (blocks.back().code() != 0) damaged.push_back(i);
  }
  HGA_RETURN_IF_ERROR(loop->Release(client, slots));
  if (damaged.empty()) return blocks;
  std::vector<BlockName> wanted;
  for (size_t i : damaged) {
    loop->CheckBlock(names[i]);
    wanted.push_back(names[i]);
  }
  HGA_ASSIGN_OR_RETURN(const auto again, loop->Fetch(client, WholeBlocks(wanted)));
  slots.clear();
  for (size_t d = 0; d < damaged.size(); ++d) {
    blocks[damaged[d]] = Copy(transfer, again[d]);
    if (again[d].status.ok()) slots.push_back(again[d].slot);
  }
  HGA_RETURN_IF_ERROR(loop->Release(client, slots));
  return blocks;
}

absl::Status CheckChunk(const CommitArgs& args, const KvGeometry& geometry) {
  if (!args.slots.empty()) return absl::InvalidArgumentError("PutBlocks: a chunk that comes as bytes names no slots");
  if (args.checksums.size() == geometry.layers) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("PutBlocks: ", args.checksums.size(), " checksums for ", geometry.layers, " layers"));
}

absl::Status FillSlots(const Transfer& transfer, const CommitArgs& args,
                       absl::FunctionRef<bool(pb::PutBlocksRequest*)> next) {
  const size_t bytes = transfer.geometry().block_bytes();
  pb::PutBlocksRequest part;
  for (size_t layer = 0; layer < args.slots.size(); ++layer) {
    if (!next(&part) || !part.has_block()) {
      return absl::InvalidArgumentError(absl::StrCat("PutBlocks: ", layer, " blocks of ", args.slots.size()));
    }
    if (part.block().size() != bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("PutBlocks: block ", layer, " has ", part.block().size(), " bytes, expected ", bytes));
    }
    uint8_t* slot = transfer.Slot(args.slots[layer]);
    std::memcpy(slot, part.block().data(), bytes);
    if (BlockChecksum(slot, bytes) != args.checksums[layer]) {
      return absl::DataLossError(absl::StrCat("PutBlocks: block ", layer, " is not what its checksum says"));
    }
  }
  if (next(&part)) return absl::InvalidArgumentError("PutBlocks: more blocks than layers");
  return absl::OkStatus();
}

}  // namespace

absl::Status SendBlocks(StoreLoop* loop, ClientId client, const std::vector<BlockName>& names,
                        absl::FunctionRef<bool(const pb::FetchedBytes&)> send) {
  HGA_ASSIGN_OR_RETURN(const auto transfer, loop->BeginTransfer(client));
  const size_t at_once = std::max<size_t>(1, kBytesAtOnce / transfer->geometry().block_bytes());
  for (size_t begin = 0; begin < names.size(); begin += at_once) {
    const size_t end = std::min(names.size(), begin + at_once);
    HGA_ASSIGN_OR_RETURN(const auto blocks,
                         CopySome(loop, client, *transfer, {names.begin() + begin, names.begin() + end}));
    for (const pb::FetchedBytes& block : blocks) {
      if (!send(block)) return absl::CancelledError("the client has gone");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CommitOutcome> ReceiveBlocks(StoreLoop* loop, absl::FunctionRef<bool(pb::PutBlocksRequest*)> next) {
  pb::PutBlocksRequest first;
  if (!next(&first) || !first.has_commit()) {
    return absl::InvalidArgumentError("PutBlocks: the first message must be the chunk");
  }
  const ClientId client = first.commit().client_id();
  HGA_ASSIGN_OR_RETURN(CommitArgs args, FromProto(first.mutable_commit()));
  HGA_ASSIGN_OR_RETURN(const auto transfer, loop->BeginTransfer(client));
  HGA_RETURN_IF_ERROR(CheckChunk(args, transfer->geometry()));
  HGA_ASSIGN_OR_RETURN(args.slots, loop->Reserve(client, transfer->geometry().layers));
  std::vector<uint32_t> slots = args.slots;
  absl::StatusOr<CommitOutcome> outcome = CommitOutcome();
  if (const absl::Status filled = FillSlots(*transfer, args, next); !filled.ok()) {
    outcome = filled;
  } else {
    outcome = loop->Commit(client, std::move(args));
  }
  if (outcome.ok()) slots = outcome->slots;
  // Holds or reservations. A client that has left meanwhile loses them with its seat.
  loop->Release(client, slots).IgnoreError();
  return outcome;
}

}  // namespace hga
