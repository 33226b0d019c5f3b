// A session as one file: 8 bytes "HGASESS1", then frames of a length (u64, little endian) and so many bytes:
//
//   geometry record, session record; for each chunk of the session: chunk record, and, if it has checksums,
//   summary record and for each layer header and data of its block
//
// Records and blocks are as in tier/record_codec.h, with version and checksum each.
#ifndef HGA_KV_STORE_TOOL_SESSION_FILE_H_
#define HGA_KV_STORE_TOOL_SESSION_FILE_H_

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kv_store/tier/kv_tier.h"

namespace hga {

// NOT_FOUND: no such session. DATA_LOSS: it is damaged, nothing useful was written.
absl::Status ExportSession(KvTier* tier, const std::string& name, std::ostream* out);

struct SessionFileChunk {
  ChunkRecord record;  // without checksums: token ids only, and nothing of what follows
  SummaryRecord summary;
  std::vector<std::vector<uint8_t>> blocks;  // [layers], block_bytes each
};

// Reads a file from its beginning, once. Everything is checked before it is believed: INVALID_ARGUMENT or DATA_LOSS for
// what is no such file. Not thread-safe.
class SessionFileReader {
 public:
  // `in` must outlive the reader.
  static absl::StatusOr<SessionFileReader> Open(std::istream* in);

  const KvGeometry& geometry() const { return geometry_; }
  const SessionRecord& session() const { return session_; }
  // The next of session().chunks, which follows from the one before.
  absl::StatusOr<SessionFileChunk> Next();
  // After the last chunk: whether the file ends there.
  absl::Status CheckEnd();

 private:
  SessionFileReader(std::istream* in, const KvGeometry& geometry, SessionRecord session);

  std::istream* in_;
  KvGeometry geometry_;
  SessionRecord session_;
  size_t next_ = 0;
  ChunkHash parent_;
};

}  // namespace hga

#endif  // HGA_KV_STORE_TOOL_SESSION_FILE_H_
