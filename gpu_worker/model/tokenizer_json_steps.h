// The parts of tokenizer.json around the model: what is done to a text before it, and to its tokens after it.
#ifndef HGA_GPU_WORKER_MODEL_TOKENIZER_JSON_STEPS_H_
#define HGA_GPU_WORKER_MODEL_TOKENIZER_JSON_STEPS_H_

#include "absl/status/status.h"
#include "gpu_worker/model/json_file.h"
#include "gpu_worker/model/tokenizer_data.h"

namespace hga {

// Each reads one field of the whole file and fills its part of `data`. INVALID_ARGUMENT names the file and the field;
// a type or setting that is not known is refused, with the list of those that are.
absl::Status ReadNormalizer(const JsonFields& root, TokenizerData* data);      // normalize
absl::Status ReadPreTokenizer(const JsonFields& root, TokenizerData* data);    // split, model: kByteBpe or kBpe
absl::Status ReadPostProcessor(const JsonFields& root, TokenizerData* data);   // bos, add_bos
absl::Status ReadTokenDecoder(const JsonFields& root, TokenizerData* data);    // metaspace_decoder, strip_leading_space

}  // namespace hga

#endif  // HGA_GPU_WORKER_MODEL_TOKENIZER_JSON_STEPS_H_
