// Named arrays of bytes: what every container holds.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/status.h"

namespace q2c {

// Element types: those of safetensors in the order in which its reference writer sorts them,
// then the block types of GGUF, in which a run of `block` elements along the innermost
// dimension is stored together.
enum class Dtype : uint8_t {
  kU64, kI64, kF64, kC64, kF32, kU32, kI32, kBF16, kF16, kU16, kI16,
  kF8E5M2Fnuz, kF8E4M3Fnuz, kF8E8M0, kF8E4M3, kF8E5M2, kI8, kU8, kF6E3M2, kF6E2M3, kF4, kBool,
  kQ4_0, kQ4_1, kQ8_0,
};

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;  // as safetensors or GGUF spells it
  uint16_t bits;          // of one block
  uint16_t block = 1;     // elements stored together; 1 for everything that safetensors holds
};

inline constexpr std::array kDtypes = {
    DtypeInfo{Dtype::kU64, "U64", 64},   DtypeInfo{Dtype::kI64, "I64", 64},
    DtypeInfo{Dtype::kF64, "F64", 64},   DtypeInfo{Dtype::kC64, "C64", 64},
    DtypeInfo{Dtype::kF32, "F32", 32},   DtypeInfo{Dtype::kU32, "U32", 32},
    DtypeInfo{Dtype::kI32, "I32", 32},   DtypeInfo{Dtype::kBF16, "BF16", 16},
    DtypeInfo{Dtype::kF16, "F16", 16},   DtypeInfo{Dtype::kU16, "U16", 16},
    DtypeInfo{Dtype::kI16, "I16", 16},   DtypeInfo{Dtype::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8},
    DtypeInfo{Dtype::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8}, DtypeInfo{Dtype::kF8E8M0, "F8_E8M0", 8},
    DtypeInfo{Dtype::kF8E4M3, "F8_E4M3", 8},         DtypeInfo{Dtype::kF8E5M2, "F8_E5M2", 8},
    DtypeInfo{Dtype::kI8, "I8", 8},      DtypeInfo{Dtype::kU8, "U8", 8},
    DtypeInfo{Dtype::kF6E3M2, "F6_E3M2", 6}, DtypeInfo{Dtype::kF6E2M3, "F6_E2M3", 6},
    DtypeInfo{Dtype::kF4, "F4", 4},      DtypeInfo{Dtype::kBool, "BOOL", 8},
    DtypeInfo{Dtype::kQ4_0, "Q4_0", 144, 32}, DtypeInfo{Dtype::kQ4_1, "Q4_1", 160, 32},
    DtypeInfo{Dtype::kQ8_0, "Q8_0", 272, 32},
};

constexpr const DtypeInfo& InfoOf(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)]; }
constexpr std::string_view NameOf(Dtype dtype) { return InfoOf(dtype).name; }
constexpr std::optional<Dtype> DtypeNamed(std::string_view name) {
  for (const DtypeInfo& info : kDtypes) {
    if (info.name == name) return info.dtype;
  }
  return std::nullopt;
}
constexpr bool IsFloat16Or32(Dtype dtype) {
  return dtype == Dtype::kF16 || dtype == Dtype::kBF16 || dtype == Dtype::kF32;
}

using Shape = std::vector<uint64_t>;  // outermost first, row-major

// Bytes of a tensor; nothing if the product overflows or is no whole number of bytes or blocks.
inline std::optional<uint64_t> BytesOf(Dtype dtype, const Shape& shape) {
  const DtypeInfo& info = InfoOf(dtype);
  CheckedSize bits = info.bits;
  if (info.block > 1 && (shape.empty() || shape.back() % info.block != 0)) return std::nullopt;
  for (size_t i = 0; i < shape.size(); ++i) bits *= i + 1 == shape.size() ? shape[i] / info.block : shape[i];
  // A zero dimension makes the tensor empty, whatever the others say.
  for (const uint64_t dim : shape) {
    if (dim == 0) return 0;
  }
  if (!bits.value().has_value() || *bits.value() % 8 != 0) return std::nullopt;
  return *bits.value() / 8;
}

// A tensor inside a file of a checkpoint.
struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::kF32;
  Shape shape;
  size_t file = 0;      // index into the checkpoint's list of weight files
  uint64_t offset = 0;  // of the first byte, from the start of the file
  uint64_t bytes = 0;   // of all elements, back to back
  // Where the elements do not lie back to back: how far apart they are in each dimension, in
  // elements, outermost first, 0 where one is repeated; `offset` is that of the first. Else empty.
  std::vector<uint64_t> strides = {};
};

}  // namespace q2c
