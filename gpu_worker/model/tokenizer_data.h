// What a tokenizer is made of, as its file describes it. The readers of GGUF and tokenizer.json fill it.
#ifndef HGA_GPU_WORKER_MODEL_TOKENIZER_DATA_H_
#define HGA_GPU_WORKER_MODEL_TOKENIZER_DATA_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>


namespace hga {

// One step over the text as a whole.
struct NormalizeStep {
  enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kPrepend, kReplace, kCollapseSpaces };
  Kind kind;
  std::string from;  // kReplace
  std::string to;    // kReplace, kPrepend
};

// One step that cuts pieces into smaller ones.
struct SplitStep {
  enum class Kind { kIsolate, kRemove, kMetaspace, kPrefixSpace };
  enum class Prepend { kNever, kFirst, kAlways };
  Kind kind;
  std::string pattern;                 // kIsolate, kRemove: a regular expression
  bool invert = false;                 // kRemove: drops what lies between the matches
  Prepend prepend = Prepend::kAlways;  // kMetaspace
  bool split = true;                   // kMetaspace: a piece begins at every U+2581
};

struct AddedToken {
  std::string text;
  uint32_t id = 0;
  bool control = false;     // found only where the caller asks for special tokens
  bool normalized = false;  // looked for after normalisation
  bool lstrip = false;      // takes the white space before it
  bool rstrip = false;      // takes the white space after it
};

struct TokenizerData {
  enum class Model { kByteBpe, kBpe, kUnigram };
  static constexpr uint32_t kNone = UINT32_MAX;

  Model model = Model::kByteBpe;
  std::vector<NormalizeStep> normalize;
  std::vector<SplitStep> split;
  std::vector<std::string> tokens;  // by id, the model's own; kByteBpe: in GPT-2's byte alphabet; empty: none
  std::vector<AddedToken> added;
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  std::vector<double> scores;       // by id; kUnigram; kBpe without merges: they are made from the scores
  bool float_sums = false;          // kUnigram: sums of scores are rounded to float, which decides between equals
  std::vector<uint32_t> no_match;   // ids that text never becomes by the model: control, byte and unknown tokens
  bool ignore_merges = false;       // a word that is a token is that token
  bool byte_fallback = false;       // characters without a token become <0xXX> tokens
  bool fuse_unknown = false;        // neighbouring unknown characters are one token
  uint32_t unknown = kNone;         // kNone: characters without a token are left out

  bool metaspace_decoder = false;    // U+2581 is a blank in the text that comes out
  bool strip_leading_space = false;  // a decoded text loses its first blank, if it begins with one

  uint32_t bos = kNone;
  bool add_bos = false;        // a text begins with bos
  std::vector<uint32_t> ends;  // each ends an answer
  std::string chat_template;   // Jinja text; empty: the file has none
};

// GPT-2's pattern, which is also that of tokenizer.json's ByteLevel.
inline constexpr char kGpt2Split[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// What GGUF says of a byte-level tokenizer by the name of its pre-tokenizer alone.
struct TokenizerFamily {
  std::vector<SplitStep> split;
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;  // where the file does not say
};

// nullopt: the name is not known.
std::optional<TokenizerFamily> FindTokenizerFamily(const std::string& name);
// The names that FindTokenizerFamily knows, for messages.
std::string TokenizerFamilyNames();

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TOKENIZER_DATA_H_
