// What the reader and the writer of GGUF share; not for others.
#pragma once

#include <array>
#include <string>

#include "formats/containers/gguf.h"

namespace q2c {

inline constexpr std::string_view kGgufMagic = "GGUF";
inline constexpr uint64_t kMaxGgufName = 63;  // llama.cpp keeps names in 64 bytes, the last one NUL
inline constexpr uint64_t kMaxGgufExperts = 1024;  // as llama.cpp has it

struct GgufTensorType {
  uint32_t id;
  Dtype dtype;
};
inline constexpr std::array<GgufTensorType, 6> kGgufTensorTypes = {{
    {0, Dtype::kF32}, {1, Dtype::kF16}, {2, Dtype::kQ4_0}, {3, Dtype::kQ4_1}, {8, Dtype::kQ8_0}, {30, Dtype::kBF16},
}};

// Rounded up to a power of two; nothing on overflow.
std::optional<uint64_t> GgufPadded(CheckedSize size, uint64_t alignment);

// `general.alignment`, or 32. Errors: kMalformed "gguf-alignment".
Result<uint64_t> GgufAlignment(const GgufValues& values);

// A key or the name of a tensor: UTF-8, not empty, without NUL.
bool IsGgufName(std::string_view name);

// "blk.0.ffn_up_exps" of "blk.0.ffn_up_exps.weight"; nothing for the name of another tensor.
std::optional<std::string_view> GgufStackOf(std::string_view name);

struct GgufSlice {
  std::string_view stack;
  uint64_t index = 0;
};
// Stack and index of "blk.0.ffn_up_exps.7.weight".
std::optional<GgufSlice> GgufSliceOf(std::string_view name);

std::string GgufStackName(std::string_view stack);                   // "blk.0.ffn_up_exps.weight"
std::string GgufSliceName(std::string_view stack, uint64_t index);   // "blk.0.ffn_up_exps.7.weight"

}  // namespace q2c
