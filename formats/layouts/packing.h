// Bit streams and transposes that several layouts are made of.
#pragma once

#include <vector>

#include "formats/base/bytes.h"
#include "formats/quant_linear.h"

namespace q2c {

// [rows, columns] elements of `width` (2, 4) bytes -> [columns, rows].
void Transpose(const std::byte* from, std::byte* to, uint64_t rows, uint64_t columns, uint64_t width);

// `count` fields of `bits` bits from a little-endian stream of 32-bit words, plus `add`, modulo
// 2^bits. `word_stride` is the distance of two words of the stream, in words.
void UnpackFields(const std::byte* words, uint64_t word_stride, uint64_t count, uint32_t bits, uint32_t add, uint16_t* fields);
// The reverse, adding `add` before packing. The last word is filled up with zero bits.
void PackFields(const uint16_t* fields, uint64_t count, uint32_t bits, uint32_t add, std::byte* words, uint64_t word_stride);

// Rounds to the dtype; float32 keeps a product of a 24-bit and an 8-bit number rounded once.
void StoreFloat(double value, Dtype dtype, std::byte* out);
double LoadFloat(const std::byte* at, Dtype dtype);

// Zero points from offsets: layouts that store offset = −scale · zero. offset(i) goes with
// scale i and zero i. Also keeps the offsets and says where they are no whole zero points.
void ZerosFromOffsets(ByteView offsets, Dtype dtype, QuantLinear* linear);
// Errors: kRefused "quant-offset" where −scale · zero is beyond what the dtype holds.
Status OffsetsFromZeros(const QuantLinear& linear, Dtype dtype, MutableBytes out);
// Why some −scale · zero is no number of the dtype, or nothing.
std::optional<std::string> OffsetsRound(const QuantLinear& linear, Dtype dtype);
// Why some scale is no number of the dtype, or nothing.
std::optional<std::string> ScalesRound(const QuantLinear& linear, Dtype dtype);
// The scales in another dtype, rounded where they must be.
std::vector<std::byte> ScalesAs(const QuantLinear& linear, Dtype dtype);

}  // namespace q2c
