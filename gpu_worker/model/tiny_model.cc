#include "gpu_worker/model/tiny_model.h"

#include <cmath>
#include <fstream>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gpu_worker/model/byte_alphabet.h"
#include "gpu_worker/model/row_quantizer.h"

namespace hga {
namespace {

template <typename T>
void Put(std::vector<uint8_t>* out, T value) {
  const auto* raw = reinterpret_cast<const uint8_t*>(&value);
  out->insert(out->end(), raw, raw + sizeof(T));
}

// Collects metadata and tensors, then writes the file.
class GgufWriter {
 public:
  void Uint(const std::string& key, uint32_t value) { Entry(key, 4), Put(&meta_, value); }
  void Float(const std::string& key, float value) { Entry(key, 6), Put(&meta_, value); }
  void String(const std::string& key, const std::string& value) { Entry(key, 8), Text(&meta_, value); }
  void Strings(const std::string& key, const std::vector<std::string>& values) {
    Array(key, 8, values.size());
    for (const std::string& value : values) Text(&meta_, value);
  }
  void Ints(const std::string& key, const std::vector<int32_t>& values) {
    Array(key, 5, values.size());
    for (int32_t value : values) Put(&meta_, value);
  }
  void Tensor(const std::string& name, TensorType type, uint32_t rows, uint32_t cols,
              const std::vector<uint8_t>& data) {
    Text(&tensors_, name);
    Put(&tensors_, uint32_t{rows == 1 ? 1u : 2u});
    Put(&tensors_, uint64_t{cols});
    if (rows != 1) Put(&tensors_, uint64_t{rows});
    Put(&tensors_, static_cast<uint32_t>(type));
    Put(&tensors_, uint64_t{data_.size()});
    data_.insert(data_.end(), data.begin(), data.end());
    data_.resize((data_.size() + 31) / 32 * 32);
    ++tensor_count_;
  }
  absl::Status Write(const std::string& path) const {
    std::vector<uint8_t> file = {'G', 'G', 'U', 'F'};
    Put(&file, uint32_t{3});
    Put(&file, tensor_count_);
    Put(&file, entry_count_);
    file.insert(file.end(), meta_.begin(), meta_.end());
    file.insert(file.end(), tensors_.begin(), tensors_.end());
    file.resize((file.size() + 31) / 32 * 32);
    file.insert(file.end(), data_.begin(), data_.end());
    std::ofstream stream(path, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(file.data()), static_cast<std::streamsize>(file.size()));
    stream.close();
    if (stream.fail()) return absl::UnavailableError(absl::StrCat("cannot write ", path));
    return absl::OkStatus();
  }

 private:
  static void Text(std::vector<uint8_t>* out, const std::string& text) {
    Put(out, uint64_t{text.size()});
    out->insert(out->end(), text.begin(), text.end());
  }
  void Entry(const std::string& key, uint32_t type) {
    Text(&meta_, key);
    Put(&meta_, type);
    ++entry_count_;
  }
  void Array(const std::string& key, uint32_t element, uint64_t count) {
    Entry(key, 9);
    Put(&meta_, element);
    Put(&meta_, count);
  }

  std::vector<uint8_t> meta_, tensors_, data_;
  uint64_t entry_count_ = 0, tensor_count_ = 0;
};

class TinyModelWriter {
 public:
  explicit TinyModelWriter(const TinyModelOptions& options) : o_(options), random_(options.seed) {}

  absl::Status Write(const std::string& path) {
    const uint32_t block = TensorBlockElements(o_.type);
    for (uint32_t width : {o_.hidden, o_.ffn, o_.query_heads * o_.head_dim}) {
      // The embedding may be Q8_0 whatever the matrices are.
      if (width % block != 0 || width % 32 != 0) {
        return absl::InvalidArgumentError(absl::StrCat("tiny model: widths must be multiples of 32, and of ", block,
                                                       " for ", TensorTypeName(o_.type), "; one is ", width));
      }
    }
    Config();
    const uint32_t vocab = Vocabulary();
    const bool plain = o_.type == TensorType::kF32 || o_.type == TensorType::kF16 || o_.type == TensorType::kBF16;
    const TensorType embedding = plain ? o_.type : TensorType::kQ8_0;
    Matrix("token_embd.weight", embedding, vocab, o_.hidden, 1.0f);
    Norm("output_norm.weight");
    if (!o_.tied) Matrix("output.weight", embedding, vocab, o_.hidden, 1.0f);
    for (uint32_t i = 0; i < o_.layers; ++i) Layer(absl::StrCat("blk.", i, "."));
    return writer_.Write(path);
  }

 private:
  void Config() {
    writer_.String("general.architecture", "llama");
    writer_.String("general.name", "tiny random model");
    writer_.Uint("llama.block_count", o_.layers);
    writer_.Uint("llama.context_length", o_.context_tokens);
    writer_.Uint("llama.embedding_length", o_.hidden);
    writer_.Uint("llama.feed_forward_length", o_.ffn);
    writer_.Uint("llama.attention.head_count", o_.query_heads);
    writer_.Uint("llama.attention.head_count_kv", o_.kv_heads);
    writer_.Uint("llama.attention.key_length", o_.head_dim);
    writer_.Uint("llama.rope.dimension_count", o_.head_dim);
    writer_.Float("llama.rope.freq_base", 10000.0f);
    writer_.Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  }

  uint32_t Vocabulary() {
    std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    std::vector<int32_t> types(3, 3);
    for (int byte = 0; byte < 256; ++byte) tokens.push_back(ToByteAlphabet(static_cast<uint8_t>(byte)));
    std::vector<std::string> merges;
    const std::string blank = ToByteAlphabet(' ');
    const std::pair<std::string, std::string> pairs[] = {
        {"t", "h"}, {"th", "e"}, {blank, "the"}, {"i", "n"}, {"a", "n"}};
    for (const auto& [left, right] : pairs) {
      merges.push_back(absl::StrCat(left, " ", right));
      tokens.push_back(left + right);
    }
    types.resize(tokens.size(), 1);
    writer_.String("tokenizer.ggml.model", "gpt2");
    writer_.String("tokenizer.ggml.pre", "smollm");
    writer_.Strings("tokenizer.ggml.tokens", tokens);
    writer_.Ints("tokenizer.ggml.token_type", types);
    writer_.Strings("tokenizer.ggml.merges", merges);
    writer_.Uint("tokenizer.ggml.eos_token_id", 2);
    writer_.String("tokenizer.chat_template",
                   "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
                   "'<|im_end|>' + '\n'}}{% endfor %}");
    return static_cast<uint32_t>(tokens.size());
  }

  void Layer(const std::string& prefix) {
    const uint32_t q = o_.query_heads * o_.head_dim, kv = o_.kv_heads * o_.head_dim;
    const float in = 1 / std::sqrt(static_cast<float>(o_.hidden));
    Norm(prefix + "attn_norm.weight");
    // Wide queries and keys, so that attention is peaked and a wrong selection is seen.
    Matrix(prefix + "attn_q.weight", o_.type, q, o_.hidden, 2 * in);
    Matrix(prefix + "attn_k.weight", o_.type, kv, o_.hidden, 2 * in);
    Matrix(prefix + "attn_v.weight", o_.type, kv, o_.hidden, in);
    Matrix(prefix + "attn_output.weight", o_.type, o_.hidden, q, 1 / std::sqrt(static_cast<float>(q)));
    Norm(prefix + "ffn_norm.weight");
    Matrix(prefix + "ffn_gate.weight", o_.type, o_.ffn, o_.hidden, in);
    Matrix(prefix + "ffn_up.weight", o_.type, o_.ffn, o_.hidden, in);
    Matrix(prefix + "ffn_down.weight", o_.type, o_.hidden, o_.ffn, 1 / std::sqrt(static_cast<float>(o_.ffn)));
  }

  void Matrix(const std::string& name, TensorType type, uint32_t rows, uint32_t cols, float scale) {
    std::vector<uint8_t> data;
    for (uint32_t r = 0; r < rows; ++r) {
      const auto bytes = RandomRow(type, cols, scale, &random_);
      data.insert(data.end(), bytes.begin(), bytes.end());
    }
    writer_.Tensor(name, type, rows, cols, data);
  }

  void Norm(const std::string& name) {
    std::uniform_real_distribution<float> around_one(0.5f, 1.5f);
    std::vector<float> row(o_.hidden);
    for (float& x : row) x = around_one(random_);
    writer_.Tensor(name, TensorType::kF32, 1, o_.hidden, QuantizeRow(TensorType::kF32, row));
  }

  const TinyModelOptions o_;
  std::mt19937 random_;
  GgufWriter writer_;
};

}  // namespace

absl::Status WriteTinyGguf(const std::string& path, const TinyModelOptions& options) {
  return TinyModelWriter(options).Write(path);
}

}  // namespace hga
