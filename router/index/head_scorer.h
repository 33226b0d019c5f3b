// Scores what one KV head's queries make of a block's history: first its chunks, then the units in those that are kept.
// Part of Select.
#ifndef HGA_ROUTER_INDEX_HEAD_SCORER_H_
#define HGA_ROUTER_INDEX_HEAD_SCORER_H_

#include <cstdint>
#include <vector>

#include "common/kv/route_message.h"
#include "router/index/centre_score.h"
#include "router/index/select_options.h"
#include "router/index/sequence_index.h"
#include "router/index/sketch_score.h"

namespace hga {

// Work space of one thread, and the queries it has at hand.
struct HeadScratch {
  std::vector<float> queries_of_head;  // [rows][query heads of a KV head][head_dim]
  std::vector<float> weights;          // of units' vectors, [rows * query heads][vectors][head_dim]
  CentreQueries centre_queries;        // of sketches
  SketchTables tables;
  std::vector<const uint8_t*> records;  // of the kept chunks' units
  std::vector<float> references, besides;  // [rows * query heads], of weights; what is attended weighs so much
  std::vector<float> parts;            // [rows * query heads] of MakeParts
  std::vector<float> coarse;           // [rows * query heads][stride], of chunks, where `coarse_scores` points to it
  std::vector<float> scores;           // [some query heads][stride]: ranks of chunks, scores of groups
  std::vector<uint16_t> weights_of_units;  // [rows * query heads, or some of them][stride]; of chunks as well
  std::vector<float> pooled;           // [stride], of chunks
  std::vector<int32_t> work;           // of CutTop
  std::vector<uint64_t> masks;         // of TakeTop
  SelectTimes times;

  uint32_t token = 0, kv_head = 0;     // the first row's token
  ScoreQueries queries;                // of all rows, one after the other
  float* coarse_scores = nullptr;      // [rows * query heads][stride]
};

// One call of Select. Constant after construction: any threads, each with its own scratch.
class HeadScorer {
 public:
  HeadScorer(const SequenceIndex& index, uint32_t layer, const RouteBlock& block, const SelectOptions& options);

  uint32_t first_chunk() const { return first_chunk_; }
  uint32_t chunks() const { return chunks_; }  // of the range
  uint32_t unit_tokens() const { return unit_tokens_; }
  uint32_t units_per_chunk() const { return units_per_chunk_; }
  // Of a chunk: the mask of the keys of units; that of the units whose last key is in a mask.
  uint64_t KeysOf(uint64_t units) const;
  uint64_t UnitsOf(uint64_t keys) const;
  // Floats of a row of coarse scores, and of one of the units' of so many chunks.
  size_t coarse_stride() const;
  size_t fine_stride(size_t chunks) const;
  // Tokens that are scored together with less work than one by one, if all chunks are kept.
  uint32_t rows_at_once() const;
  // Chunks that the first level keeps.
  uint32_t kept_chunks(uint32_t budget) const;

  // The queries of `rows` tokens from `token` on. coarse: their coarse scores' place; nullptr: in the scratch.
  void Load(uint32_t token, uint32_t rows, uint32_t kv_head, float* coarse, HeadScratch* s) const;
  // scores[head * coarse_stride() + chunk]: of its centre; `extents`: and what its extents add, if the method has them.
  void ScoreCoarse(bool extents, const HeadScratch& s, float* scores) const;
  // Fills `chunks`, ascending and relative to the range, with the best `wanted`; coarse scores as well, where the
  // second level needs them or `coarse` says so. Of one row, or for wanted >= chunks().
  void ChooseChunks(uint32_t wanted, bool coarse, HeadScratch* s, std::vector<uint32_t>* chunks) const;
  // shares[i]: the share of unit i of `chunks`, of one row. Room for fine_stride(chunks).
  void ScoreFine(const std::vector<uint32_t>& chunks, HeadScratch* s, float* shares) const;
  // The same of all rows, where few of the shares are wanted: WeighFine, and then of each row KeepFine, as KeepFrom.
  // chunks: how many there were. least > 0. For units of one token.
  void WeighFine(const std::vector<uint32_t>& chunks, HeadScratch* s) const;
  uint32_t KeepFine(uint32_t row, size_t chunks, float least, const uint64_t* skip, const HeadScratch& s, float* kept,
                    uint32_t* places) const;

 private:
  bool sketch() const { return index_.method().form == SummaryForm::kSketch; }
  // Sets references and besides by what is attended, less `per_unit`.
  void SetReferences(float per_unit, HeadScratch* s) const;
  // No lower than these scores, where they need it.
  void RaiseReference(uint32_t head, const float* scores, uint32_t count, HeadScratch* s) const;
  size_t BeginFine(const std::vector<uint32_t>& chunks, uint32_t heads, HeadScratch* s) const;
  void ScoreCoarseFrom(uint32_t i, uint32_t end, bool extents, const HeadScratch& s, float* scores) const;
  CentreRun Run(const HeadScratch& s, uint32_t chunk, bool extents) const;
  void WeighUnitsOf(const std::vector<uint32_t>& chunks, uint32_t first, uint32_t some, size_t stride,
                    HeadScratch* s) const;
  void ListRecords(const std::vector<uint32_t>& chunks, HeadScratch* s) const;
  void ScoreChunks(uint32_t begin, uint32_t count, size_t at, uint32_t first, uint32_t some, size_t stride,
                   HeadScratch* s) const;

  const SequenceIndex& index_;
  const KvGeometry& g_;
  const uint32_t layer_;
  const RouteBlock& block_;
  const SelectOptions& options_;
  const uint32_t first_chunk_, chunks_;
  const uint32_t unit_tokens_, units_per_chunk_;
  const uint32_t skipped_units_;  // of the first chunk, before first_key
  const UnitLayout coarse_layout_, fine_layout_;
};

}  // namespace hga

#endif  // HGA_ROUTER_INDEX_HEAD_SCORER_H_
