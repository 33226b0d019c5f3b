#include "kv_store/service/convert.h"

#include <utility>

#include "common/base/status.h"
#include "common/kv/proto_geometry.h"

namespace hga {

std::optional<KvGeometry> FromProto(const types::v1::KvGeometry& in) {
  if (in.layers() == 0) return std::nullopt;
  return GeometryFromProto(in);
}

absl::StatusOr<std::vector<ChunkHash>> FromProto(const google::protobuf::RepeatedPtrField<std::string>& in) {
  std::vector<ChunkHash> hashes(in.size());
  for (int i = 0; i < in.size(); ++i) {
    HGA_ASSIGN_OR_RETURN(hashes[i], ChunkHash::FromBytes(in[i]));
  }
  return hashes;
}

absl::StatusOr<std::vector<BlockName>> FromProto(
    const google::protobuf::RepeatedPtrField<types::v1::BlockName>& in) {
  std::vector<BlockName> names(in.size());
  for (int i = 0; i < in.size(); ++i) {
    HGA_ASSIGN_OR_RETURN(names[i].chunk, ChunkHash::FromBytes(in[i].chunk_hash()));
    names[i].layer = in[i].layer();
  }
  return names;
}

absl::StatusOr<std::vector<BlockHeads>> FromProto(const kv_store::v1::FetchRequest& in) {
  if (in.heads_size() != 0 && in.heads_size() != in.blocks_size()) {
    return absl::InvalidArgumentError("Fetch: heads for another number of blocks");
  }
  HGA_ASSIGN_OR_RETURN(const std::vector<BlockName> names, FromProto(in.blocks()));
  std::vector<BlockHeads> wanted = WholeBlocks(names);
  for (int i = 0; i < in.heads_size(); ++i) wanted[i].heads = in.heads(i);
  return wanted;
}

absl::StatusOr<CommitArgs> FromProto(kv_store::v1::CommitRequest* in) {
  CommitArgs args;
  args.session_id = in->session_id();
  args.epoch = in->epoch();
  HGA_ASSIGN_OR_RETURN(args.hash, ChunkHash::FromBytes(in->chunk_hash()));
  HGA_ASSIGN_OR_RETURN(args.parent, ChunkHash::FromBytes(in->parent_hash()));
  args.token_ids.assign(in->token_ids().begin(), in->token_ids().end());
  args.slots.assign(in->slots().begin(), in->slots().end());
  args.checksums.assign(in->checksums().begin(), in->checksums().end());
  args.summary.method = in->summary().method();
  args.summary.data = std::move(*in->mutable_summary()->mutable_data());
  return args;
}

void ToProto(const StoreStats& s, uint64_t disk_bytes, kv_store::v1::GetStatsResponse* out) {
  out->set_slots_total(s.slots_total);
  out->set_slots_free(s.slots[static_cast<int>(SlotState::kFree)]);
  out->set_slots_held(s.slots_held);
  out->set_slots_dirty(s.slots[static_cast<int>(SlotState::kDirty)]);
  out->set_ram_hits(s.ram_hits);
  out->set_disk_hits(s.disk_hits);
  out->set_misses(s.misses);
  out->set_evictions(s.evictions);
  out->set_sessions(s.sessions);
  out->set_chunks(s.chunks);
  out->set_chunks_durable(s.chunks_durable);
  out->set_disk_bytes(disk_bytes);
  out->set_checksum_errors(s.checksum_errors);
}

}  // namespace hga
