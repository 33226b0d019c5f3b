#include "kv_store/tier/record_codec.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status.h"

namespace hga {
namespace {

constexpr char kRecordVersion = 1;
constexpr char kBlockVersion = 1;

class Writer {
 public:
  Writer() { out_.push_back(kRecordVersion); }
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
    if (BlockChecksum(bytes.data(), bytes.size()) != checksum || bytes[0] != kRecordVersion) return;
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
  absl::Status Done(const char* what) const {
    if (ok_ && rest_.empty()) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat(what, " record on disk is damaged or of an unknown version"));
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
  bool ok_ = false;
};

}  // namespace

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
  Writer w;
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
  HGA_RETURN_IF_ERROR(in.Done("session"));
  return r;
}

std::string EncodeGeometry(const KvGeometry& g) {
  Writer w;
  for (uint32_t v : {g.layers, g.query_heads, g.kv_heads, g.head_dim, g.chunk_tokens, g.group_tokens})
    w.Pod(v);
  return w.Finish();
}

absl::StatusOr<KvGeometry> DecodeGeometry(absl::string_view bytes) {
  Reader in(bytes);
  KvGeometry g;
  for (uint32_t* v :
       {&g.layers, &g.query_heads, &g.kv_heads, &g.head_dim, &g.chunk_tokens, &g.group_tokens}) {
    *v = in.Pod<uint32_t>();
  }
  HGA_RETURN_IF_ERROR(in.Done("geometry"));
  HGA_RETURN_IF_ERROR(g.Validate());
  return g;
}

std::string EncodeBlockHeader(uint64_t checksum) {
  std::string header(kBlockHeaderBytes, '\0');
  header[0] = kBlockVersion;
  std::memcpy(&header[8], &checksum, sizeof(checksum));
  return header;
}

absl::Status DecodeBlock(absl::string_view value, size_t block_bytes, uint8_t* out) {
  if (value.size() != kBlockHeaderBytes + block_bytes) {
    return absl::DataLossError(absl::StrCat("block on disk has ", value.size(), " bytes, expected ",
                                            kBlockHeaderBytes + block_bytes));
  }
  if (value[0] != kBlockVersion) return absl::DataLossError("block on disk has an unknown format version");
  uint64_t checksum;
  std::memcpy(&checksum, value.data() + 8, sizeof(checksum));
  // The copy is what will be served, so the copy is what is checked.
  std::memcpy(out, value.data() + kBlockHeaderBytes, block_bytes);
  if (BlockChecksum(out, block_bytes) != checksum)
    return absl::DataLossError("block on disk has a bad checksum");
  return absl::OkStatus();
}

std::string BlockKey(const BlockName& name) {
  std::string key = name.chunk.ToBytes();
  for (int shift = 24; shift >= 0; shift -= 8) key.push_back(static_cast<char>(name.layer >> shift));
  return key;
}

}  // namespace hga
