// The GGUF readers (file, model, tokenizer) on any bytes: they answer or refuse, and never read past them.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "gpu_worker/model/check_finite.h"
#include "gpu_worker/model/gguf.h"
#include "gpu_worker/model/gguf_model.h"
#include "gpu_worker/model/gguf_tokenizer.h"
#include "gpu_worker/model/quant.h"

namespace {

// Each accessor, whatever the key's type.
void ReadValue(const hga::GgufFile& file, const std::string& key) {
  (void)file.GetUint(key);
  (void)file.GetFloat(key);
  (void)file.GetString(key);
  (void)file.GetStrings(key);
  (void)file.GetInts(key);
  (void)file.GetFloats(key);
}

void ReadTensor(const hga::GgufFile& file, const std::string& name) {
  constexpr uint32_t kRows = 64;  // of a hostile shape; the last one is among them
  const auto matrices = file.Matrices(name);
  for (const hga::TensorView* view : {&matrices->front(), &matrices->back()}) {
    std::vector<float> values(view->cols);
    for (uint32_t i = 0; i < kRows && i < view->rows; ++i) {
      const uint8_t* row = view->row(view->rows - 1 - i);
      hga::DequantizeRow(view->type, row, view->cols, values.data());
      (void)hga::RowIsFinite(view->type, row, view->cols);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = hga::GgufFile::Parse("input", {data, size});
  if (!file.ok()) return 0;
  for (const char* key : {"a", "b", "c", "d", "general.alignment", "split.count"}) ReadValue(**file, key);
  for (const std::string& name : (*file)->tensor_names()) ReadTensor(**file, name);
  const auto weights = hga::ReadGgufModel(**file);
  if (weights.ok()) (void)hga::CheckFinite(*weights);  // looks at rows of every tensor
  (void)hga::ReadGgufTokenizer(**file);
  return 0;
}
