#include "common/kv/route_message.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

constexpr uint32_t kRequestMagic = 0x31515248;   // "HRQ1"
constexpr uint32_t kResponseMagic = 0x31535248;  // "HRS1"
// More blocks than any step has rows.
constexpr uint32_t kMaxBlocks = 4096;

struct MessageHeader {
  uint32_t magic;
  uint32_t layer;
  uint64_t step;
  uint32_t blocks;
  uint32_t reserved;
};
static_assert(sizeof(MessageHeader) == 24);

struct BlockHeader {
  uint64_t sequence_id;
  uint32_t tokens;
  uint32_t first_chunk;
  uint32_t route_upto;
  uint32_t reserved;
};
static_assert(sizeof(BlockHeader) == 24);

size_t Padded(size_t bytes) { return (bytes + 7) & ~size_t{7}; }

size_t BudgetBytes(uint32_t tokens) { return Padded(size_t{tokens} * sizeof(uint32_t)); }
size_t QueryBytes(const KvGeometry& g, uint32_t tokens) {
  return Padded(size_t{tokens} * g.query_heads * g.head_dim * sizeof(bf16));
}

// Copies parts into a span whose size was checked before.
class Writer {
 public:
  explicit Writer(uint8_t* out) : out_(out), start_(out) {}
  void Put(const void* data, size_t bytes) {
    std::memcpy(out_, data, bytes);
    std::memset(out_ + bytes, 0, Padded(bytes) - bytes);
    out_ += Padded(bytes);
  }
  size_t written() const { return out_ - start_; }

 private:
  uint8_t* out_;
  uint8_t* const start_;
};

// Hands out parts of a span; nullptr when too little is left.
class Reader {
 public:
  explicit Reader(absl::Span<const uint8_t> in) : in_(in) {}
  const uint8_t* Take(size_t bytes) {
    if (bytes > in_.size()) return nullptr;
    const uint8_t* part = in_.data();
    in_.remove_prefix(bytes);
    return part;
  }
  template <typename T>
  bool Read(T* value) {
    const uint8_t* part = Take(sizeof(T));
    if (part != nullptr) std::memcpy(value, part, sizeof(T));
    return part != nullptr;
  }

 private:
  absl::Span<const uint8_t> in_;
};

absl::Status Malformed(const char* what) { return absl::InvalidArgumentError(absl::StrCat("route message: ", what)); }

absl::Status ReadHeader(Reader* reader, uint32_t magic, MessageHeader* header) {
  if (!reader->Read(header)) return Malformed("shorter than its header");
  if (header->magic != magic) return Malformed("wrong magic");
  if (header->blocks == 0 || header->blocks > kMaxBlocks) return Malformed("absurd number of blocks");
  return absl::OkStatus();
}

absl::Status ReadBlock(const KvGeometry& g, Reader* reader, RouteBlock* block) {
  BlockHeader header;
  if (!reader->Read(&header)) return Malformed("truncated block header");
  if (header.tokens == 0 || header.tokens > g.chunk_tokens) return Malformed("block with no or too many tokens");
  if (header.first_chunk > header.route_upto) return Malformed("block with an inverted chunk range");
  block->sequence_id = header.sequence_id;
  block->tokens = header.tokens;
  block->first_chunk = header.first_chunk;
  block->route_upto = header.route_upto;
  const uint8_t* budget = reader->Take(BudgetBytes(header.tokens));
  const uint8_t* queries = budget == nullptr ? nullptr : reader->Take(QueryBytes(g, header.tokens));
  if (queries == nullptr) return Malformed("truncated block");
  block->budget_groups = reinterpret_cast<const uint32_t*>(budget);
  block->queries = reinterpret_cast<const bf16*>(queries);
  return absl::OkStatus();
}

absl::Status ReadHead(const KvGeometry& g, const RouteBlock& asked, Reader* reader, HeadSelection* head) {
  uint32_t count[2];
  if (!reader->Read(&count)) return Malformed("truncated selection");
  const uint32_t low = asked.first_chunk * g.groups_per_chunk(), high = asked.route_upto * g.groups_per_chunk();
  if (count[0] > high - low) return Malformed("more groups selected than there are");
  const uint8_t* data = reader->Take(size_t{count[0]} * sizeof(SelectedGroup));
  if (data == nullptr) return Malformed("truncated selection");
  head->resize(count[0]);
  if (count[0] > 0) std::memcpy(head->data(), data, head->size() * sizeof(SelectedGroup));
  uint64_t next = low;
  for (const SelectedGroup& selected : *head) {
    if (selected.group < next || selected.group >= high) return Malformed("group out of range or order");
    if (selected.first_token >= asked.tokens) return Malformed("group for a token that was not asked about");
    next = uint64_t{selected.group} + 1;
  }
  return absl::OkStatus();
}

}  // namespace

size_t RouteRequestBytes(const KvGeometry& g, const RouteRequest& request) {
  size_t bytes = sizeof(MessageHeader);
  for (const RouteBlock& block : request.blocks) {
    bytes += sizeof(BlockHeader) + BudgetBytes(block.tokens) + QueryBytes(g, block.tokens);
  }
  return bytes;
}

size_t RouteResponseBytesMax(const KvGeometry& g, const RouteRequest& request) {
  size_t bytes = sizeof(MessageHeader);
  for (const RouteBlock& block : request.blocks) {
    const size_t groups = size_t{block.route_upto - block.first_chunk} * g.groups_per_chunk();
    bytes += g.kv_heads * (2 * sizeof(uint32_t) + groups * sizeof(SelectedGroup));
  }
  return bytes;
}

absl::StatusOr<size_t> EncodeRouteRequest(const KvGeometry& g, const RouteRequest& request, absl::Span<uint8_t> out) {
  if (RouteRequestBytes(g, request) > out.size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("route request of ", RouteRequestBytes(g, request), " bytes, room for ", out.size()));
  }
  Writer writer(out.data());
  const MessageHeader header = {kRequestMagic, request.layer, request.step,
                                static_cast<uint32_t>(request.blocks.size()), 0};
  writer.Put(&header, sizeof(header));
  for (const RouteBlock& block : request.blocks) {
    const BlockHeader block_header = {block.sequence_id, block.tokens, block.first_chunk, block.route_upto, 0};
    writer.Put(&block_header, sizeof(block_header));
    writer.Put(block.budget_groups, size_t{block.tokens} * sizeof(uint32_t));
    writer.Put(block.queries, size_t{block.tokens} * g.query_heads * g.head_dim * sizeof(bf16));
  }
  return writer.written();
}

absl::StatusOr<size_t> EncodeRouteResponse(const KvGeometry& g, const RouteResponse& response,
                                           absl::Span<uint8_t> out) {
  size_t bytes = sizeof(MessageHeader);
  for (const auto& block : response.blocks) {
    for (const HeadSelection& head : block) bytes += 2 * sizeof(uint32_t) + head.size() * sizeof(SelectedGroup);
  }
  if (bytes > out.size()) {
    return absl::ResourceExhaustedError(absl::StrCat("route response of ", bytes, " bytes, room for ", out.size()));
  }
  Writer writer(out.data());
  const MessageHeader header = {kResponseMagic, response.layer, response.step,
                                static_cast<uint32_t>(response.blocks.size()), 0};
  writer.Put(&header, sizeof(header));
  for (const auto& block : response.blocks) {
    for (const HeadSelection& head : block) {
      const uint32_t count[2] = {static_cast<uint32_t>(head.size()), 0};
      writer.Put(count, sizeof(count));
      if (!head.empty()) writer.Put(head.data(), head.size() * sizeof(SelectedGroup));
    }
  }
  return writer.written();
}

absl::StatusOr<RouteRequest> DecodeRouteRequest(const KvGeometry& g, absl::Span<const uint8_t> in) {
  Reader reader(in);
  MessageHeader header;
  HGA_RETURN_IF_ERROR(ReadHeader(&reader, kRequestMagic, &header));
  if (header.layer >= g.layers) return Malformed("layer out of range");
  RouteRequest request;
  request.step = header.step;
  request.layer = header.layer;
  request.blocks.resize(header.blocks);
  for (RouteBlock& block : request.blocks) HGA_RETURN_IF_ERROR(ReadBlock(g, &reader, &block));
  return request;
}

absl::StatusOr<RouteResponse> DecodeRouteResponse(const KvGeometry& g, const RouteRequest& request,
                                                  absl::Span<const uint8_t> in) {
  Reader reader(in);
  MessageHeader header;
  HGA_RETURN_IF_ERROR(ReadHeader(&reader, kResponseMagic, &header));
  if (header.step != request.step || header.layer != request.layer || header.blocks != request.blocks.size()) {
    return Malformed("answer to another question");
  }
  RouteResponse response;
  response.step = header.step;
  response.layer = header.layer;
  response.blocks.resize(header.blocks);
  for (size_t b = 0; b < response.blocks.size(); ++b) {
    response.blocks[b].resize(g.kv_heads);
    for (HeadSelection& head : response.blocks[b]) {
      HGA_RETURN_IF_ERROR(ReadHead(g, request.blocks[b], &reader, &head));
    }
  }
  return response;
}

}  // namespace hga
