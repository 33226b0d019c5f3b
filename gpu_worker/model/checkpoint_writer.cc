#include "gpu_worker/model/checkpoint_writer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "gpu_worker/model/safetensors_header.h"
#include "nlohmann/json.hpp"

namespace hga {
namespace {

constexpr size_t kWriteBytes = 1 << 20;

uint64_t Elements(const TensorToWrite& t) {
  uint64_t count = 1;
  for (uint64_t size : t.shape) count *= size;
  return count;
}

uint64_t Bytes(const TensorToWrite& t) { return Elements(t) * SafetensorsElementBytes(t.dtype); }

// Random floats without a conversion: sign and mantissa of any bits, the exponent fixed.
struct BitPattern {
  uint64_t free;   // one element's bits that are random
  uint64_t fixed;
  int element_bits;
};

// `value`: a power of two times [1, 2).
BitPattern PatternOf(const std::string& dtype, double value) {
  const int exponent = static_cast<int>(std::floor(std::log2(value)));
  if (dtype == "F32") return {0x807fffff, static_cast<uint64_t>(exponent + 127) << 23, 32};
  if (dtype == "BF16") return {0x807f, static_cast<uint64_t>(exponent + 127) << 7, 16};
  if (dtype == "F16") return {0x83ff, static_cast<uint64_t>(std::max(1, exponent + 15)) << 10, 16};
  return {0x87, 7 << 3, 8};  // FP8 of magnitude 1 to 1.875; its scale does the rest
}

uint64_t Repeated(uint64_t element, int bits) {
  uint64_t lanes = 0;
  for (int shift = 0; shift < 64; shift += bits) lanes |= element << shift;
  return lanes;
}

uint64_t ConstantBits(const std::string& dtype, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if (dtype == "F32") return bits;
  if (dtype == "BF16") return bits >> 16;
  return dtype == "F16" ? 0x3c00 : 0x38;  // one
}

class DataWriter {
 public:
  DataWriter(std::ofstream* stream, uint32_t seed) : stream_(*stream), random_(seed) {}

  void Write(const TensorToWrite& t) {
    const int bits = static_cast<int>(SafetensorsElementBytes(t.dtype)) * 8;
    const double columns = static_cast<double>(t.shape.empty() ? 1 : t.shape.back());
    switch (t.fill) {
      case TensorFill::kHole:
        stream_.seekp(static_cast<std::streamoff>(Bytes(t)), std::ios::cur);
        return;
      case TensorFill::kOne:
        return Fill(Bytes(t), 0, Repeated(ConstantBits(t.dtype, 1), bits));
      case TensorFill::kScale:
        return Fill(Bytes(t), 0, Repeated(ConstantBits(t.dtype, 1 / (1.5f * std::sqrt(float(t.columns)))), bits));
      case TensorFill::kRandom: {
        const BitPattern pattern = PatternOf(t.dtype, 1 / std::sqrt(columns));
        return Fill(Bytes(t), Repeated(pattern.free, bits), Repeated(pattern.fixed, bits));
      }
    }
  }

 private:
  void Fill(uint64_t bytes, uint64_t free, uint64_t fixed) {
    std::vector<uint64_t> buffer((std::min<uint64_t>(bytes, kWriteBytes) + 7) / sizeof(uint64_t));
    while (bytes > 0) {
      const uint64_t length = std::min<uint64_t>(bytes, kWriteBytes);
      for (uint64_t i = 0; i * sizeof(uint64_t) < length; ++i) {
        buffer[i] = free == 0 ? fixed : (random_() & free) | fixed;
      }
      stream_.write(reinterpret_cast<const char*>(buffer.data()), static_cast<std::streamsize>(length));
      bytes -= length;
    }
  }

  std::ofstream& stream_;
  std::mt19937_64 random_;
};

absl::Status WriteFile(const std::string& path, const std::vector<TensorToWrite>& tensors, uint32_t seed) {
  HGA_ASSIGN_OR_RETURN(const std::string header, SafetensorsHeader(tensors));
  std::ofstream stream(path, std::ios::binary);
  stream << header;
  DataWriter writer(&stream, seed);
  for (const TensorToWrite& t : tensors) writer.Write(t);
  // A file that ends with a hole needs its last byte.
  if (!tensors.empty() && tensors.back().fill == TensorFill::kHole && Bytes(tensors.back()) > 0) {
    stream.seekp(-1, std::ios::cur);
    stream.put('\0');
  }
  stream.close();
  if (stream.fail()) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> SafetensorsHeader(const std::vector<TensorToWrite>& tensors) {
  nlohmann::json header;
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t offset = 0;
  for (const TensorToWrite& t : tensors) {
    if (SafetensorsElementBytes(t.dtype) == 0) return absl::InvalidArgumentError(absl::StrCat("dtype ", t.dtype));
    header[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {offset, offset + Bytes(t)}}};
    offset += Bytes(t);
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof(size)) + text;
}

absl::Status WriteSafetensors(const std::string& folder, const std::vector<TensorToWrite>& tensors, uint32_t seed,
                              uint64_t shard_bytes) {
  std::vector<std::vector<TensorToWrite>> shards(1);
  uint64_t bytes = 0, total = 0;
  for (const TensorToWrite& t : tensors) {
    if (!shards.back().empty() && Bytes(t) > shard_bytes - std::min(bytes, shard_bytes)) {
      shards.emplace_back();
      bytes = 0;
    }
    shards.back().push_back(t);
    bytes += Bytes(t);
    total += Bytes(t);
  }
  if (shards.size() == 1) return WriteFile(folder + "/model.safetensors", tensors, seed);
  nlohmann::json index;
  index["metadata"] = {{"total_size", total}};
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
    HGA_RETURN_IF_ERROR(WriteFile(absl::StrCat(folder, "/", name), shards[i], seed + static_cast<uint32_t>(i)));
    for (const TensorToWrite& t : shards[i]) index["weight_map"][t.name] = name;
  }
  std::ofstream stream(folder + "/model.safetensors.index.json");
  stream << index.dump(2) << "\n";
  stream.close();
  if (stream.fail()) return absl::UnavailableError(absl::StrCat("cannot write the index in ", folder));
  return absl::OkStatus();
}

}  // namespace hga
