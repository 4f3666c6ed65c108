// The safetensors container: a JSON header and the bytes of the tensors, back to back.
// The format, its limits and where each fact comes from: safetensors.md.
#pragma once

#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "formats/base/file.h"
#include "formats/tensor.h"

namespace q2c {

struct SafetensorsHeader {
  std::vector<std::pair<std::string, std::string>> metadata;
  std::vector<TensorInfo> tensors;  // in file order; offsets count from the start of the file
  std::vector<std::string> warnings;
};

inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

// Validates the whole header against the file's size before anything else is read or
// allocated. `head` is the front of the file: 8 bytes and the header.
// Errors: kMalformed "safetensors-…"; kRefused "dtype-unknown".
Result<SafetensorsHeader> ParseSafetensorsHeader(ByteView head, uint64_t file_bytes);

// The same from a file; messages name it. A file of another kind (LFS pointer, pickle,
// archive, web page) is named as what it is.
Result<SafetensorsHeader> ReadSafetensorsHeader(const InputFile& file);

// One tensor to be written.
struct SafetensorsEntry {
  std::string name;
  Dtype dtype = Dtype::kF32;
  Shape shape;
};

// The reference writer puts tensors in ascending order of this: widest element type first, then by name.
inline std::tuple<Dtype, std::string_view> SafetensorsOrder(Dtype dtype, std::string_view name) { return {dtype, name}; }

// The front of a file that holds the entries in the given order: 8 bytes of length and
// the header, padded with spaces to a multiple of 8. Metadata is {"format": FORMAT}: "pt",
// which transformers before 4.48 cannot do without, or "mlx".
std::string BuildSafetensorsHead(const std::vector<SafetensorsEntry>& entries, std::string_view format = "pt");

}  // namespace q2c
