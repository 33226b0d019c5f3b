#include "common/kv/route_message.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

constexpr uint32_t kRequestMagic = 0x34515248;   // "HRQ4"
constexpr uint32_t kResponseMagic = 0x34535248;  // "HRS4"
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
  uint32_t first_key;
  uint32_t route_upto;
  uint32_t flags;
  float least_share;
  float top_p;
};
static_assert(sizeof(BlockHeader) == 32);

constexpr uint32_t kShared = 1;
constexpr uint32_t kHasAttended = 2;
constexpr uint32_t kResidual = 4;

size_t Padded(size_t bytes) { return (bytes + 7) & ~size_t{7}; }

size_t BudgetBytes(uint32_t tokens) { return Padded(size_t{tokens} * sizeof(uint32_t)); }
size_t QueryBytes(const KvGeometry& g, uint32_t tokens) {
  return Padded(size_t{tokens} * g.query_heads * g.head_dim * sizeof(bf16));
}
// One float for each token and query head.
size_t PerHeadBytes(const KvGeometry& g, uint32_t tokens) {
  return Padded(size_t{tokens} * g.query_heads * sizeof(float));
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
  if (header.route_upto > UINT32_MAX / g.chunk_tokens) return Malformed("block with an absurd range");
  block->sequence_id = header.sequence_id;
  block->tokens = header.tokens;
  block->first_key = header.first_key;
  block->route_upto = header.route_upto;
  const uint8_t* budget = reader->Take(BudgetBytes(header.tokens));
  const uint8_t* queries = budget == nullptr ? nullptr : reader->Take(QueryBytes(g, header.tokens));
  if (queries == nullptr) return Malformed("truncated block");
  block->budget_keys = reinterpret_cast<const uint32_t*>(budget);
  block->queries = reinterpret_cast<const bf16*>(queries);
  // Written so that what is not a number is refused.
  if (!(header.least_share >= 0 && header.least_share <= 1)) return Malformed("least share outside 0 to 1");
  if (!(header.top_p > 0 && header.top_p <= 1)) return Malformed("top-p outside 0 to 1");
  if ((header.flags & ~(kShared | kHasAttended | kResidual)) != 0) return Malformed("unknown flags");
  block->shared = (header.flags & kShared) != 0;
  block->residual = (header.flags & kResidual) != 0;
  block->least_share = header.least_share;
  block->top_p = header.top_p;
  if ((header.flags & kHasAttended) != 0) {
    const uint8_t* attended = reader->Take(PerHeadBytes(g, header.tokens));
    if (attended == nullptr) return Malformed("truncated block");
    block->attended = reinterpret_cast<const float*>(attended);
  }
  return absl::OkStatus();
}

// Of one KV head. Each token adds at least one key per entry, within a budget that all tokens share; everything is one
// entry a chunk.
size_t MostSelected(const KvGeometry& g, const RouteBlock& block) {
  if (block.empty(g)) return 0;
  const size_t chunks = block.route_upto - block.first_chunk(g);
  size_t budget = 0;
  for (uint32_t t = 0; t < block.tokens; ++t) {
    if (block.budget_keys[t] != kEverything) budget = std::max<size_t>(budget, block.budget_keys[t]);
  }
  return std::min(chunks * block.tokens, chunks + budget * (block.shared ? g.kv_heads : 1));
}

absl::Status CheckSelected(const KvGeometry& g, const RouteBlock& asked, const HeadSelection& head) {
  uint64_t seen = 0;
  for (size_t i = 0; i < head.size(); ++i) {
    const SelectedChunk& s = head[i];
    if (s.chunk < asked.first_chunk(g) || s.chunk >= asked.route_upto) return Malformed("chunk out of range");
    if (s.first_token >= asked.tokens) return Malformed("keys for a token that was not asked about");
    if (s.mask == 0 || (s.mask & ~RoutableMask(g, s.chunk, asked.first_key)) != 0) return Malformed("key out of range");
    if (i == 0 || s.chunk > head[i - 1].chunk) {
      seen = 0;
    } else if (s.chunk < head[i - 1].chunk || s.first_token <= head[i - 1].first_token) {
      return Malformed("chunks out of order");
    }
    if ((seen & s.mask) != 0) return Malformed("key selected twice");
    seen |= s.mask;
  }
  return absl::OkStatus();
}

absl::Status ReadHead(const KvGeometry& g, const RouteBlock& asked, Reader* reader, HeadSelection* head) {
  uint32_t count[2];
  if (!reader->Read(&count)) return Malformed("truncated selection");
  if (count[0] > MostSelected(g, asked)) return Malformed("more selected than there is");
  const uint8_t* data = reader->Take(size_t{count[0]} * sizeof(SelectedChunk));
  if (data == nullptr) return Malformed("truncated selection");
  head->resize(count[0]);
  if (count[0] > 0) std::memcpy(head->data(), data, head->size() * sizeof(SelectedChunk));
  return CheckSelected(g, asked, *head);
}

absl::Status ReadMissed(const KvGeometry& g, const RouteBlock& asked, Reader* reader, std::vector<float>* missed) {
  const uint8_t* data = reader->Take(PerHeadBytes(g, asked.tokens));
  if (data == nullptr) return Malformed("truncated sums of what is missed");
  missed->resize(size_t{asked.tokens} * g.query_heads);
  std::memcpy(missed->data(), data, missed->size() * sizeof(float));
  for (const float sum : *missed) {
    if (!(sum < HUGE_VALF)) return Malformed("a sum of what is missed is no number");
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t RoutableMask(const KvGeometry& g, uint32_t chunk, uint32_t first_key) {
  const uint64_t all = ~uint64_t{0} >> (64 - g.chunk_tokens);
  const uint64_t start = uint64_t{chunk} * g.chunk_tokens;
  if (first_key <= start) return all;
  return first_key - start >= g.chunk_tokens ? 0 : all & (~uint64_t{0} << (first_key - start));
}

void SelectAll(const KvGeometry& g, const RouteBlock& block, HeadSelection* head) {
  head->clear();
  if (block.empty(g)) return;
  for (uint32_t chunk = block.first_chunk(g); chunk < block.route_upto; ++chunk) {
    head->push_back({chunk, 0, RoutableMask(g, chunk, block.first_key)});
  }
}

size_t RouteRequestBytes(const KvGeometry& g, const RouteRequest& request) {
  size_t bytes = sizeof(MessageHeader);
  for (const RouteBlock& block : request.blocks) {
    bytes += sizeof(BlockHeader) + BudgetBytes(block.tokens) + QueryBytes(g, block.tokens);
    if (block.attended != nullptr) bytes += PerHeadBytes(g, block.tokens);
  }
  return bytes;
}

size_t RouteResponseBytes(const RouteResponse& response) {
  size_t bytes = sizeof(MessageHeader);
  for (const auto& block : response.blocks) {
    for (const HeadSelection& head : block) bytes += 2 * sizeof(uint32_t) + head.size() * sizeof(SelectedChunk);
  }
  for (const auto& missed : response.missed) bytes += Padded(missed.size() * sizeof(float));
  return bytes;
}

size_t RouteResponseBytesMax(const KvGeometry& g, const RouteRequest& request) {
  size_t bytes = sizeof(MessageHeader);
  for (const RouteBlock& block : request.blocks) {
    bytes += g.kv_heads * (2 * sizeof(uint32_t) + MostSelected(g, block) * sizeof(SelectedChunk));
    if (block.residual) bytes += PerHeadBytes(g, block.tokens);
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
    const uint32_t flags = (block.shared ? kShared : 0) | (block.attended != nullptr ? kHasAttended : 0) |
                           (block.residual ? kResidual : 0);
    const BlockHeader block_header = {block.sequence_id, block.tokens,      block.first_key, block.route_upto,
                                      flags,             block.least_share, block.top_p};
    writer.Put(&block_header, sizeof(block_header));
    writer.Put(block.budget_keys, size_t{block.tokens} * sizeof(uint32_t));
    writer.Put(block.queries, size_t{block.tokens} * g.query_heads * g.head_dim * sizeof(bf16));
    if (block.attended != nullptr) {
      writer.Put(block.attended, size_t{block.tokens} * g.query_heads * sizeof(float));
    }
  }
  return writer.written();
}

absl::StatusOr<size_t> EncodeRouteResponse(const KvGeometry& g, const RouteResponse& response,
                                           absl::Span<uint8_t> out) {
  const size_t bytes = RouteResponseBytes(response);
  if (bytes > out.size()) {
    return absl::ResourceExhaustedError(absl::StrCat("route response of ", bytes, " bytes, room for ", out.size()));
  }
  Writer writer(out.data());
  const MessageHeader header = {kResponseMagic, response.layer, response.step,
                                static_cast<uint32_t>(response.blocks.size()), 0};
  writer.Put(&header, sizeof(header));
  for (size_t b = 0; b < response.blocks.size(); ++b) {
    for (const HeadSelection& head : response.blocks[b]) {
      const uint32_t count[2] = {static_cast<uint32_t>(head.size()), 0};
      writer.Put(count, sizeof(count));
      if (!head.empty()) writer.Put(head.data(), head.size() * sizeof(SelectedChunk));
    }
    if (b >= response.missed.size() || response.missed[b].empty()) continue;
    writer.Put(response.missed[b].data(), response.missed[b].size() * sizeof(float));
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
  response.missed.resize(header.blocks);
  for (size_t b = 0; b < response.blocks.size(); ++b) {
    response.blocks[b].resize(g.kv_heads);
    for (HeadSelection& head : response.blocks[b]) {
      HGA_RETURN_IF_ERROR(ReadHead(g, request.blocks[b], &reader, &head));
    }
    if (!request.blocks[b].residual) continue;
    HGA_RETURN_IF_ERROR(ReadMissed(g, request.blocks[b], &reader, &response.missed[b]));
  }
  return response;
}

}  // namespace hga
