#include "gpu_worker/model/model_headers.h"

#include <filesystem>
#include <utility>

#include "common/base/status.h"
#include "gpu_worker/model/gguf.h"
#include "gpu_worker/model/gguf_model.h"
#include "gpu_worker/model/hf_model.h"
#include "gpu_worker/model/tensor_list.h"

namespace hga {

std::map<std::string, TypeShare> ModelHeaders::Types() const {
  std::map<std::string, TypeShare> types;
  for (const auto& [name, view] : ListTensors(weights)) {
    TypeShare& share = types[TensorTypeName(view.type)];
    ++share.tensors;
    share.parameters += uint64_t{view.rows} * view.cols;
    share.bytes += TensorBytes(view);
  }
  return types;
}

absl::StatusOr<ModelHeaders> ReadModelHeaders(const std::string& path) {
  ModelHeaders headers;
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    HGA_ASSIGN_OR_RETURN(std::shared_ptr<HfModel> model, ReadHfModel(path, HfRead::kHeadersOnly));
    headers.format = "safetensors";
    headers.file_count = model->checkpoint->file_count();
    headers.file_bytes = model->checkpoint->file_bytes();
    headers.weights = std::move(model->weights);
    headers.files = std::move(model);
    return headers;
  }
  HGA_ASSIGN_OR_RETURN(std::shared_ptr<const GgufFile> file, GgufFile::Open(path));
  HGA_ASSIGN_OR_RETURN(headers.weights, ReadGgufModel(*file));
  headers.format = "GGUF";
  headers.file_count = 1;
  headers.file_bytes = file->file_bytes();
  headers.files = std::move(file);
  return headers;
}

}  // namespace hga
