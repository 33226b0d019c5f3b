// What a BlockStore must be, kept beside it by the simulation: exact where the store has no choice, bounds where it
// has (what a crash or a damaged disk took).
#ifndef HGA_TESTS_FAULT_STORE_MODEL_H_
#define HGA_TESTS_FAULT_STORE_MODEL_H_

#include <cstdint>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/kv/geometry.h"
#include "common/kv/ids.h"

namespace hga {

class StoreModel {
 public:
  StoreModel();

  // --- The world: a tree of chunks, two ways on at each, and the bytes of each block ---
  const KvGeometry& geometry() const { return geometry_; }
  const ModelFingerprint& fingerprint() const { return fingerprint_; }
  std::vector<ChunkHash> RandomPath(std::mt19937_64* random);
  const ChunkHash& Parent(const ChunkHash& chunk) const { return tree_.at(chunk).parent; }
  const std::vector<uint32_t>& Tokens(const ChunkHash& chunk) const { return tree_.at(chunk).tokens; }
  std::vector<uint8_t> Bytes(const ChunkHash& chunk, uint32_t layer) const;
  // Whether `block` has what these heads of that block are.
  bool HasHeads(const std::vector<uint8_t>& block, const ChunkHash& chunk, uint32_t layer, uint64_t heads) const;

  // --- Chunks ---
  void Committed(const std::string& session, const ChunkHash& chunk, bool duplicate);
  uint64_t CommitVersion(const ChunkHash& chunk) const;  // changes with each commit that is no duplicate
  void Durable(const ChunkHash& chunk, uint64_t version);
  void Lost(const ChunkHash& chunk);       // the store has said so
  // Whether a disk budget may take its blocks: one session alone has it, one that is neither open nor pinned.
  bool MayBeGivenUp(const ChunkHash& chunk) const;
  // The last chunk of each session that the budget may take from.
  std::vector<ChunkHash> NextToGiveUp() const;
  void Scribbled(const ChunkHash& chunk);  // its bytes in RAM were changed behind the store's back
  void DamagedOnDisk(const ChunkHash& chunk) { damaged_on_disk_.insert(chunk); }
  void NotDamagedOnDisk(const ChunkHash& chunk) { damaged_on_disk_.erase(chunk); }
  bool IsScribbled(const ChunkHash& chunk) const;
  bool MayBeDamaged(const ChunkHash& chunk) const;
  bool MayBeWhole(const ChunkHash& chunk) const;
  bool MustBeWhole(const ChunkHash& chunk) const;
  // How many chunks of `path` the store has, at least and at most.
  std::pair<size_t, size_t> MatchBounds(const std::vector<ChunkHash>& path) const;
  // Named by a manifest or pinned by an open session: neither more nor less is kept.
  std::set<ChunkHash> Referred() const;

  // --- Sessions ---
  void Opened(const std::string& id, bool named, uint64_t epoch, const std::vector<ChunkHash>& matched);
  void Updated(const std::string& id, const std::vector<ChunkHash>& chunks, const std::vector<uint32_t>& tail);
  void Closed(const std::string& id);
  void Deleted(const std::string& name);
  void Forked(const std::string& from, const std::string& to);
  void Pinned(const std::string& name, bool pinned) { sessions_.at(name).pinned = pinned; }
  bool IsPinned(const std::string& name) const { return sessions_.at(name).pinned; }
  size_t PinnedChunks() const;
  bool Exists(const std::string& id) const { return sessions_.count(id) > 0; }
  bool IsOpen(const std::string& id) const;
  bool HasTokens(const std::string& id) const { return !SessionTokens(id).empty(); }
  uint64_t Epoch(const std::string& id) const { return sessions_.at(id).epoch; }
  std::vector<uint32_t> SessionTokens(const std::string& id) const;
  size_t SessionCount() const { return sessions_.size(); }
  std::set<std::string> SavedNames() const;  // what the disk has with nothing under way
  // Number of the last change of the session; changes up to a saved one survive a crash.
  uint64_t SessionVersion(const std::string& name) const;
  void Saved(const std::string& name, uint64_t version);

  // --- After a crash: for each name what came back (nullptr: nothing), then once FinishRecovery ---
  // Says what is wrong: neither a state the session had since its last saved one.
  std::string Recover(const std::string& name, const std::vector<uint32_t>* tokens);
  void FinishRecovery();

 private:
  struct Node {
    ChunkHash parent;
    std::vector<uint32_t> tokens;
  };
  struct Chunk {
    bool may = true, must = false;  // be whole in the index
    bool durable = false;           // acknowledged
    bool scribbled = false;
    bool suspect = false;  // was scribbled when the store crashed
  };
  struct Session {
    bool named = false, open = false, pinned = false;
    uint64_t epoch = 0;
    std::vector<ChunkHash> chunks;
    std::vector<uint32_t> tail;
    std::set<ChunkHash> pins;
  };
  struct History {
    std::map<uint64_t, std::vector<uint32_t>> states = {{0, {}}};  // tokens after each change; empty: no session
    uint64_t saved = 0;
  };

  void Sweep();  // forgets chunks that nobody refers to
  void Note(const std::string& name);

  const KvGeometry geometry_;
  const ModelFingerprint fingerprint_;
  std::map<ChunkHash, Node> tree_;
  std::map<ChunkHash, Chunk> chunks_;
  std::map<ChunkHash, uint64_t> commit_versions_;
  std::set<ChunkHash> damaged_on_disk_;
  std::map<std::string, Session> sessions_;
  std::map<std::string, Session> recovered_;
  std::map<std::string, History> history_;
};

}  // namespace hga

#endif  // HGA_TESTS_FAULT_STORE_MODEL_H_
