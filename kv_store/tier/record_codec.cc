#include "kv_store/tier/record_codec.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"
#include "common/kv/kv_rows.h"

namespace hga {
namespace {

constexpr char kRecordVersion = 1;
constexpr char kPinnedSessionVersion = 2;  // as version 1, of a session that is pinned
constexpr char kTypedGeometryVersion = 2;  // as version 1, and the type of the elements, which is not bf16
constexpr char kBlockVersion = 1;
constexpr char kPackedBlockVersion = 2;
constexpr size_t kChecksumAt = 8;  // in a block's header
constexpr size_t kPartHeaderBytes = kBlockHeaderBytes + sizeof(uint64_t);

class Writer {
 public:
  explicit Writer(char version = kRecordVersion) { out_.push_back(version); }
  template <typename T>
  void Pod(T value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void Hash(const Hash128& hash) {
    out_.append(reinterpret_cast<const char*>(hash.bytes.data()), hash.bytes.size());
  }
  void String(const std::string& s) {
    Pod<uint64_t>(s.size());
    out_ += s;
  }
  template <typename T>
  void Vector(const std::vector<T>& v) {
    Pod<uint64_t>(v.size());
    out_.append(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T));
  }
  std::string Finish() {
    Pod<uint64_t>(BlockChecksum(out_.data(), out_.size()));
    return std::move(out_);
  }

 private:
  std::string out_;
};

// Reads what Writer wrote; after the first error everything reads as zero and Done() tells.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) {
    uint64_t checksum = 0;
    if (bytes.size() < 1 + sizeof(checksum)) return;
    std::memcpy(&checksum, bytes.data() + bytes.size() - sizeof(checksum), sizeof(checksum));
    bytes.remove_suffix(sizeof(checksum));
    if (BlockChecksum(bytes.data(), bytes.size()) != checksum) return;
    version_ = static_cast<uint8_t>(bytes[0]);
    rest_ = bytes.substr(1);
    ok_ = true;
  }
  template <typename T>
  T Pod() {
    T value{};
    Take(&value, sizeof(value));
    return value;
  }
  Hash128 Hash() {
    Hash128 hash;
    Take(hash.bytes.data(), hash.bytes.size());
    return hash;
  }
  std::string String() {
    std::string s(Count(1), '\0');
    Take(&s[0], s.size());
    return s;
  }
  template <typename T>
  std::vector<T> Vector() {
    std::vector<T> v(Count(sizeof(T)));
    Take(v.data(), v.size() * sizeof(T));
    return v;
  }
  int version() const { return version_; }
  absl::Status Done(const char* what, int newest = kRecordVersion) const {
    if (version_ < kRecordVersion || version_ > newest) {
      return absl::FailedPreconditionError(absl::StrCat(what, " record on disk has format version ", version_,
                                                        ", this kv_store reads versions up to ", newest));
    }
    if (ok_ && rest_.empty()) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(what, " record on disk is damaged"));
  }

 private:
  size_t Count(size_t element_bytes) {
    const uint64_t count = Pod<uint64_t>();
    if (count <= rest_.size() / element_bytes) return count;
    ok_ = false;
    return 0;
  }
  void Take(void* out, size_t bytes) {
    if (!ok_ || bytes > rest_.size()) {
      ok_ = false;
      return;
    }
    if (bytes > 0) std::memcpy(out, rest_.data(), bytes);
    rest_.remove_prefix(bytes);
  }

  absl::string_view rest_;
  int version_ = kRecordVersion;
  bool ok_ = false;
};

}  // namespace

std::string EncodeStoreVersion(uint32_t version) {
  Writer w;
  w.Pod(version);
  return w.Finish();
}

absl::StatusOr<uint32_t> DecodeStoreVersion(absl::string_view bytes) {
  Reader in(bytes);
  const uint32_t version = in.Pod<uint32_t>();
  HGA_RETURN_IF_ERROR(in.Done("version"));
  return version;
}

std::string EncodeChunk(const ChunkRecord& r) {
  Writer w;
  w.Hash(r.hash);
  w.Hash(r.parent);
  w.Vector(r.token_ids);
  w.Vector(r.checksums);
  return w.Finish();
}

absl::StatusOr<ChunkRecord> DecodeChunk(absl::string_view bytes) {
  Reader in(bytes);
  ChunkRecord r;
  r.hash = in.Hash();
  r.parent = in.Hash();
  r.token_ids = in.Vector<uint32_t>();
  r.checksums = in.Vector<uint64_t>();
  HGA_RETURN_IF_ERROR(in.Done("chunk"));
  return r;
}

std::string EncodeSummary(const SummaryRecord& r) {
  Writer w;
  w.String(r.method);
  w.String(r.data);
  return w.Finish();
}

absl::StatusOr<SummaryRecord> DecodeSummary(absl::string_view bytes) {
  Reader in(bytes);
  SummaryRecord r;
  r.method = in.String();
  r.data = in.String();
  HGA_RETURN_IF_ERROR(in.Done("summary"));
  return r;
}

std::string EncodeSession(const SessionRecord& r) {
  Writer w(r.pinned ? kPinnedSessionVersion : kRecordVersion);
  w.String(r.name);
  w.Hash(r.model);
  w.Pod(r.epoch);
  w.Pod(r.last_used_unix_s);
  w.Vector(r.chunks);
  w.Vector(r.tail_tokens);
  return w.Finish();
}

absl::StatusOr<SessionRecord> DecodeSession(absl::string_view bytes) {
  Reader in(bytes);
  SessionRecord r;
  r.name = in.String();
  r.model = in.Hash();
  r.epoch = in.Pod<uint64_t>();
  r.last_used_unix_s = in.Pod<int64_t>();
  r.chunks = in.Vector<ChunkHash>();
  r.tail_tokens = in.Vector<uint32_t>();
  HGA_RETURN_IF_ERROR(in.Done("session", kPinnedSessionVersion));
  r.pinned = in.version() == kPinnedSessionVersion;
  return r;
}

std::string EncodeGeometry(const KvGeometry& g) {
  Writer w(g.dtype == KvDtype::kBf16 ? kRecordVersion : kTypedGeometryVersion);
  for (uint32_t v : {g.layers, g.query_heads, g.kv_heads, g.head_dim, g.chunk_tokens, g.group_tokens})
    w.Pod(v);
  if (g.dtype != KvDtype::kBf16) w.Pod(static_cast<uint32_t>(g.dtype));
  return w.Finish();
}

absl::StatusOr<KvGeometry> DecodeGeometry(absl::string_view bytes) {
  Reader in(bytes);
  KvGeometry g;
  for (uint32_t* v :
       {&g.layers, &g.query_heads, &g.kv_heads, &g.head_dim, &g.chunk_tokens, &g.group_tokens}) {
    *v = in.Pod<uint32_t>();
  }
  if (in.version() == kTypedGeometryVersion) g.dtype = static_cast<KvDtype>(std::min(in.Pod<uint32_t>(), 255u));
  HGA_RETURN_IF_ERROR(in.Done("geometry", kTypedGeometryVersion));
  HGA_RETURN_IF_ERROR(g.Validate());
  return g;
}

std::string EncodeChunkList(const std::vector<ChunkHash>& chunks) {
  Writer w;
  w.Vector(chunks);
  return w.Finish();
}

absl::StatusOr<std::vector<ChunkHash>> DecodeChunkList(absl::string_view bytes) {
  Reader in(bytes);
  std::vector<ChunkHash> chunks = in.Vector<ChunkHash>();
  HGA_RETURN_IF_ERROR(in.Done("unfinished"));
  return chunks;
}

std::string EncodeBlockHeader(uint64_t checksum) {
  std::string header(kBlockHeaderBytes, '\0');
  header[0] = kBlockVersion;
  std::memcpy(&header[kChecksumAt], &checksum, sizeof(checksum));
  return header;
}

std::string EncodePackedHeader(uint64_t checksum, KvDtype dtype, uint32_t head_dim) {
  std::string header = EncodeBlockHeader(checksum);
  header[0] = kPackedBlockVersion;
  header[1] = static_cast<char>(dtype);
  header[2] = static_cast<char>(head_dim);
  header[3] = static_cast<char>(head_dim >> 8);
  return header;
}

bool PackBlock(KvDtype dtype, uint32_t head_dim, const uint8_t* block, size_t block_bytes, std::string* packed) {
  const size_t start = packed->size(), row_bytes = PackedRowBytes(head_dim);
  const size_t rows = block_bytes / (head_dim * sizeof(bf16));
  packed->resize(start + rows * row_bytes);
  const bf16* row = reinterpret_cast<const bf16*>(block);
  uint8_t* out = reinterpret_cast<uint8_t*>(&(*packed)[start]);
  for (size_t r = 0; r < rows; ++r, row += head_dim, out += row_bytes) {
    if (PackKvRow(dtype, row, head_dim, PackedRowAt(out, head_dim))) continue;
    packed->resize(start);
    return false;
  }
  return true;
}

namespace {

// What PackBlock made of a block, behind its header.
absl::Status Unpack(absl::string_view value, size_t header_bytes, size_t block_bytes, uint8_t* out) {
  const auto dtype = static_cast<KvDtype>(value[1]);
  const size_t head_dim = static_cast<uint8_t>(value[2]) | static_cast<size_t>(static_cast<uint8_t>(value[3])) << 8;
  if ((dtype != KvDtype::kFp8E4m3 && dtype != KvDtype::kInt8) || head_dim == 0 ||
      block_bytes % (head_dim * sizeof(bf16)) != 0) {
    return absl::DataLossError("packed block on disk has a bad header");
  }
  const size_t rows = block_bytes / (head_dim * sizeof(bf16)), row_bytes = PackedRowBytes(head_dim);
  if (value.size() != header_bytes + rows * row_bytes) {
    return absl::DataLossError(absl::StrCat("packed block on disk has ", value.size(), " bytes, expected ",
                                            header_bytes + rows * row_bytes));
  }
  const uint8_t* in = reinterpret_cast<const uint8_t*>(value.data()) + header_bytes;
  for (size_t r = 0; r < rows; ++r)
    UnpackKvRow(dtype, PackedRowViewAt(in + r * row_bytes, head_dim), head_dim,
                reinterpret_cast<bf16*>(out) + r * head_dim);
  return absl::OkStatus();
}

}  // namespace

bool IsPackedBlock(absl::string_view value) { return !value.empty() && value[0] == kPackedBlockVersion; }

namespace {

// The data behind a block's header, `header_bytes` of them, as it was before it was packed.
absl::Status CopyOut(absl::string_view value, size_t header_bytes, size_t block_bytes, uint8_t* out) {
  if (value.size() < header_bytes) return absl::DataLossError("block on disk has no header");
  if (value[0] == kPackedBlockVersion) return Unpack(value, header_bytes, block_bytes, out);
  if (value[0] != kBlockVersion) return absl::DataLossError("block on disk has an unknown format version");
  if (value.size() != header_bytes + block_bytes) {
    return absl::DataLossError(absl::StrCat("block on disk has ", value.size(), " bytes, expected ",
                                            header_bytes + block_bytes));
  }
  std::memcpy(out, value.data() + header_bytes, block_bytes);
  return absl::OkStatus();
}

uint64_t ChecksumAt(absl::string_view value, size_t offset) {
  uint64_t checksum;
  std::memcpy(&checksum, value.data() + offset, sizeof(checksum));
  return checksum;
}

}  // namespace

absl::StatusOr<uint64_t> DecodeBlock(absl::string_view value, size_t block_bytes, uint8_t* out) {
  HGA_RETURN_IF_ERROR(CopyOut(value, kBlockHeaderBytes, block_bytes, out));
  const uint64_t checksum = ChecksumAt(value, kChecksumAt);
  // What was copied or unpacked will be served, so that is what is checked.
  if (BlockChecksum(out, block_bytes) != checksum)
    return absl::DataLossError("block on disk has a bad checksum");
  return checksum;
}

std::string PartHeader(absl::string_view block_header, uint64_t part_checksum) {
  const absl::string_view part(reinterpret_cast<const char*>(&part_checksum), sizeof(part_checksum));
  return absl::StrCat(block_header.substr(0, kChecksumAt), part, block_header.substr(kChecksumAt));
}

absl::StatusOr<PartChecksums> DecodePart(absl::string_view value, size_t part_bytes, uint8_t* out) {
  HGA_RETURN_IF_ERROR(CopyOut(value, kPartHeaderBytes, part_bytes, out));
  return PartChecksums{ChecksumAt(value, kChecksumAt), ChecksumAt(value, kBlockHeaderBytes)};
}

std::string JoinPacked(absl::Span<const absl::string_view> parts) {
  std::string block;
  for (const absl::string_view part : parts) {
    if (!IsPackedBlock(part) || part.size() < kPartHeaderBytes) return "";
    const std::string header = absl::StrCat(part.substr(0, kChecksumAt), part.substr(kBlockHeaderBytes, 8));
    if (block.empty()) block = header;
    if (absl::string_view(block).substr(0, kBlockHeaderBytes) != header) return "";
    absl::StrAppend(&block, part.substr(kPartHeaderBytes));
  }
  return block;
}

std::string PartKey(const BlockName& name, uint32_t kv_head) {
  std::string key = name.chunk.ToBytes();
  for (int shift = 24; shift >= 0; shift -= 8) key.push_back(static_cast<char>(name.layer >> shift));
  for (int shift = 8; shift >= 0; shift -= 8) key.push_back(static_cast<char>(kv_head >> shift));
  return key;
}

}  // namespace hga
