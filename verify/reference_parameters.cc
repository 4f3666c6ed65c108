// Where each layout keeps its zero points (or offsets), scales and groups.
#include <array>
#include <bit>
#include <cmath>

#include "formats/base/half.h"
#include "formats/base/text.h"
#include "verify/reference_parts.h"

namespace q2c {
namespace {

// A field of a bit stream whose words lie `stride` apart.
uint32_t FieldAt(const uint32_t* words, uint64_t stride, uint64_t bit, uint64_t bits) {
  const uint32_t* word = words + bit / 32 * stride;
  const uint64_t both = uint64_t{*word} | (bit % 32 + bits > 32 ? uint64_t{word[stride]} << 32U : 0);
  return static_cast<uint32_t>(both >> (bit % 32)) & ((1U << bits) - 1);
}

// Scales (or offsets) in the order in which they are handed out: [Ng, N], or turned from [N, Ng].
Status GroupedFloats(const StoredLinear& linear, std::string_view suffix, Columns outputs, std::vector<uint32_t>* values, Dtype* dtype) {
  QC_ASSIGN(const TensorInfo* tensor, Part(linear, suffix, kFloatDtypes, {GroupsOf(linear), linear.out_features}));
  QC_ASSIGN(*values, ReadFloats(linear, *tensor, {0, GroupsOf(linear), outputs.first, outputs.count}));
  *dtype = tensor->dtype;
  return {};
}
Status TurnedFloats(const StoredLinear& linear, std::string_view suffix, uint64_t columns, Columns outputs, std::vector<uint32_t>* values, Dtype* dtype) {
  QC_ASSIGN(const TensorInfo* tensor, Part(linear, suffix, kFloatDtypes, {linear.out_features, columns}));
  QC_ASSIGN(const std::vector<uint32_t> rows, ReadFloats(linear, *tensor, {outputs.first, outputs.count, 0, columns}));
  *values = Transposed(rows, outputs.count, columns);
  values->resize(GroupsOf(linear) * outputs.count);  // what is beyond the groups is padding
  *dtype = tensor->dtype;
  return {};
}

// The zero point that an offset −scale·zero speaks of.
uint16_t NearestZero(uint32_t offset_bits, uint32_t scale_bits, uint64_t bits) {
  const double offset = std::bit_cast<float>(offset_bits);
  const double scale = std::bit_cast<float>(scale_bits);
  if (scale == 0) return offset == 0 ? 0 : kNoZero;
  const double zero = -offset / scale;
  const auto most = static_cast<double>((1U << bits) - 1);
  if (!(zero > -0.5 && zero < most + 0.5)) return kNoZero;  // not a number neither
  return static_cast<uint16_t>(std::lround(zero));
}
void ZerosFromOffsets(const StoredLinear& linear, ReferenceParameters* parameters) {
  parameters->zeros.resize(parameters->offsets.size());
  for (size_t i = 0; i < parameters->offsets.size(); ++i) parameters->zeros[i] = NearestZero(parameters->offsets[i], parameters->scales[i], linear.bits);
}

// qzeros [Ng, N·B/32]: the stream of a group runs along its row; qweight's groups in g_idx.
Status GptqParameters(const StoredLinear& linear, Columns outputs, uint32_t added, ReferenceParameters* parameters) {
  const uint64_t groups = GroupsOf(linear);
  const uint64_t bits = linear.bits;
  if (linear.out_features * bits % 32 != 0) return Malformed("quant-shape", "linear '{}': the zero points of {} outputs do not fill whole words", Escape(linear.name), linear.out_features);
  QC_TRY(GroupedFloats(linear, "scales", outputs, &parameters->scales, &parameters->scale_dtype));
  QC_ASSIGN(const TensorInfo* qzeros, Part(linear, "qzeros", kWordDtypes, {groups, linear.out_features * bits / 32}));
  const uint64_t first = outputs.first * bits / 32;
  const uint64_t count = CeilDiv((outputs.first + outputs.count) * bits, 32) - first;
  QC_ASSIGN(const std::vector<uint32_t> words, ReadWords<uint32_t>(linear, *qzeros, {0, groups, first, count}));
  parameters->zeros.resize(groups * outputs.count);
  for (uint64_t g = 0; g < groups; ++g) {
    for (uint64_t i = 0; i < outputs.count; ++i) {
      const uint32_t field = FieldAt(words.data() + g * count, 1, (outputs.first + i) * bits - first * 32, bits);
      parameters->zeros[g * outputs.count + i] = static_cast<uint16_t>((field + added) % (1U << bits));
    }
  }
  if (FindPart(linear, "g_idx") == nullptr) return {};
  QC_ASSIGN(const TensorInfo* g_idx, Part(linear, "g_idx", {Dtype::kI32}, {linear.in_features}));
  QC_ASSIGN(const std::vector<std::byte> bytes, linear.checkpoint->ReadWhole(*g_idx));
  parameters->group_index.resize(linear.in_features);
  for (uint64_t k = 0; k < linear.in_features; ++k) parameters->group_index[k] = Load<int32_t>(bytes.data() + 4 * k);
  return {};
}

// weight_zero_point [words, Ng]: the zero points of a group run down the outputs, bit by bit
// or so many a word. Without it every zero point is the middle one.
Status CompressedParametersBy(const StoredLinear& linear, uint64_t per_word, Columns outputs, ReferenceParameters* parameters) {
  const uint64_t groups = GroupsOf(linear);
  const uint64_t bits = linear.bits;
  QC_ASSIGN(const TensorInfo* shape, Part(linear, "weight_shape", {Dtype::kI64}, {2}));
  QC_ASSIGN(const std::vector<std::byte> sizes, linear.checkpoint->ReadWhole(*shape));
  if (Load<uint64_t>(sizes.data()) != linear.out_features || Load<uint64_t>(sizes.data() + 8) != linear.in_features) {
    return Malformed("quant-shape", "tensor '{}': [{},{}], expected [{},{}]", Escape(shape->name), Load<int64_t>(sizes.data()), Load<int64_t>(sizes.data() + 8), linear.out_features, linear.in_features);
  }
  QC_TRY(TurnedFloats(linear, "weight_scale", groups, outputs, &parameters->scales, &parameters->scale_dtype));
  if (FindPart(linear, "weight_zero_point") == nullptr) {
    parameters->zeros.assign(groups * outputs.count, static_cast<uint16_t>(1U << (bits - 1)));
    return {};
  }
  const auto bit_of = [&](uint64_t n) { return per_word == 0 ? n * bits : n / per_word * 32 + n % per_word * bits; };
  const uint64_t length = per_word == 0 ? CeilDiv(linear.out_features * bits, 32) : CeilDiv(linear.out_features, per_word);
  QC_ASSIGN(const TensorInfo* zero_point, Part(linear, "weight_zero_point", kWordDtypes, {length, groups}));
  const uint64_t first = bit_of(outputs.first) / 32;
  const uint64_t count = CeilDiv(bit_of(outputs.first + outputs.count - 1) + bits, 32) - first;
  QC_ASSIGN(const std::vector<uint32_t> words, ReadWords<uint32_t>(linear, *zero_point, {first, count, 0, groups}));
  parameters->zeros.resize(groups * outputs.count);
  for (uint64_t g = 0; g < groups; ++g) {
    for (uint64_t i = 0; i < outputs.count; ++i) {
      parameters->zeros[g * outputs.count + i] = static_cast<uint16_t>(FieldAt(words.data() + g, groups, bit_of(outputs.first + i) - first * 32, bits));
    }
  }
  return {};
}

// Words of zero points an output of AWQ's GEMV layouts has: enough for the groups, rounded up
// to what its kernel loads at once.
Result<uint64_t> ZeroWords(const StoredLinear& linear) {
  const uint64_t size = linear.group_size;
  if (linear.in_features % size != 0 || (size < 128 && size != 64 && size != 32)) {
    return Malformed("quant-shape", "linear '{}': groups of {} of {} inputs do not exist in layout '{}'", Escape(linear.name), size, linear.in_features, linear.layout);
  }
  const uint64_t multiple = size >= 128 ? 1 : 128 / size;
  return CeilDiv(CeilDiv(GroupsOf(linear), 8), multiple) * multiple;
}

}  // namespace

Status GptqV1Parameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters) { return GptqParameters(linear, outputs, 1, parameters); }
Status GptqV2Parameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters) { return GptqParameters(linear, outputs, 0, parameters); }
Status CompressedParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters) { return CompressedParametersBy(linear, 0, outputs, parameters); }
Status PaddedCompressedParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters) {
  return CompressedParametersBy(linear, 32 / linear.bits, outputs, parameters);
}

Status MlxParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters) {
  QC_TRY(TurnedFloats(linear, "scales", GroupsOf(linear), outputs, &parameters->scales, &parameters->scale_dtype));
  QC_TRY(TurnedFloats(linear, "biases", GroupsOf(linear), outputs, &parameters->offsets, &parameters->offset_dtype));
  ZerosFromOffsets(linear, parameters);
  return {};
}

// qzeros [Ng, N/8]: output n in word n/8, nibble by the same order as the codes.
Status AwqGemmParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters) {
  constexpr std::array<uint32_t, 8> kNibbleOfOutput = {0, 4, 1, 5, 2, 6, 3, 7};
  const uint64_t groups = GroupsOf(linear);
  QC_TRY(GroupedFloats(linear, "scales", outputs, &parameters->scales, &parameters->scale_dtype));
  QC_ASSIGN(const TensorInfo* qzeros, Part(linear, "qzeros", kWordDtypes, {groups, linear.out_features / 8}));
  const uint64_t first = outputs.first / 8;
  const uint64_t count = CeilDiv(outputs.first + outputs.count, 8) - first;
  QC_ASSIGN(const std::vector<uint32_t> words, ReadWords<uint32_t>(linear, *qzeros, {0, groups, first, count}));
  parameters->zeros.resize(groups * outputs.count);
  for (uint64_t g = 0; g < groups; ++g) {
    for (uint64_t i = 0; i < outputs.count; ++i) {
      const uint64_t n = outputs.first + i;
      parameters->zeros[g * outputs.count + i] = static_cast<uint16_t>((words[g * count + n / 8 - first] >> (4 * kNibbleOfOutput[n % 8])) & 15U);
    }
  }
  return {};
}

// qzeros [N, ZW], scales [N, 8·ZW]: a row an output, padded.
Status AwqGemvParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters) {
  QC_ASSIGN(const uint64_t length, ZeroWords(linear));
  const uint64_t groups = GroupsOf(linear);
  QC_TRY(TurnedFloats(linear, "scales", 8 * length, outputs, &parameters->scales, &parameters->scale_dtype));
  QC_ASSIGN(const TensorInfo* qzeros, Part(linear, "qzeros", kWordDtypes, {linear.out_features, length}));
  QC_ASSIGN(const std::vector<uint32_t> words, ReadWords<uint32_t>(linear, *qzeros, {outputs.first, outputs.count, 0, length}));
  parameters->zeros.resize(groups * outputs.count);
  for (uint64_t g = 0; g < groups; ++g) {
    for (uint64_t i = 0; i < outputs.count; ++i) parameters->zeros[g * outputs.count + i] = static_cast<uint16_t>(FieldAt(words.data() + i * length, 1, 4 * g, 4));
  }
  return {};
}

// scales and qzeros [8·ZW, N], both floats: qzeros are offsets; rows beyond the groups are padding.
Status AwqFastParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters) {
  QC_ASSIGN(const uint64_t length, ZeroWords(linear));
  const Shape shape = {8 * length, linear.out_features};
  const Window window = {0, GroupsOf(linear), outputs.first, outputs.count};
  QC_ASSIGN(const TensorInfo* scales, Part(linear, "scales", kFloatDtypes, shape));
  QC_ASSIGN(const TensorInfo* qzeros, Part(linear, "qzeros", kFloatDtypes, shape));
  QC_ASSIGN(parameters->scales, ReadFloats(linear, *scales, window));
  QC_ASSIGN(parameters->offsets, ReadFloats(linear, *qzeros, window));
  parameters->scale_dtype = scales->dtype;
  parameters->offset_dtype = qzeros->dtype;
  ZerosFromOffsets(linear, parameters);
  return {};
}

// s [Ng, N], permuted: with several groups as 8 × 8 squares turned, with a single one inside
// runs of 32, whose place 8i + t holds output 2i + {0, 1, 8, 9, 16, 17, 24, 25}[t].
Status MarlinParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters) {
  constexpr std::array<uint64_t, 8> kSingle = {0, 1, 8, 9, 16, 17, 24, 25};
  const uint64_t groups = GroupsOf(linear);
  if (linear.out_features % 64 != 0) return Malformed("quant-shape", "linear '{}': {} outputs, expected a multiple of 64", Escape(linear.name), linear.out_features);
  std::array<uint64_t, 64> place{};  // of an output within its 64
  for (uint64_t i = 0; i < 8; ++i) {
    for (uint64_t j = 0; j < 8; ++j) {
      if (groups > 1) place[i + 8 * j] = 8 * i + j;
      else place[i / 4 * 32 + 2 * (i % 4) + kSingle[j]] = 8 * i + j;
    }
  }
  QC_ASSIGN(const TensorInfo* scales, Part(linear, "s", {Dtype::kF16}, {groups, linear.out_features}));
  const uint64_t first = outputs.first / 64 * 64;
  const uint64_t count = CeilDiv(outputs.first + outputs.count, 64) * 64 - first;
  QC_ASSIGN(const std::vector<uint32_t> stored, ReadFloats(linear, *scales, {0, groups, first, count}));
  parameters->scales.resize(groups * outputs.count);
  for (uint64_t g = 0; g < groups; ++g) {
    for (uint64_t i = 0; i < outputs.count; ++i) {
      const uint64_t n = outputs.first + i;
      parameters->scales[g * outputs.count + i] = stored[g * count + n / 64 * 64 - first + place[n % 64]];
    }
  }
  parameters->scale_dtype = Dtype::kF16;
  parameters->zeros.assign(groups * outputs.count, 8);
  return {};
}

// GGUF: the scale (and offset) at the head of each block of 32 inputs.
Status BlockParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters) {
  constexpr uint64_t kPieceBytes = 1U << 20U;
  if (linear.in_features % 32 != 0 || linear.group_size != 32) return Malformed("quant-shape", "linear '{}': {} inputs in groups of {}, expected groups of 32", Escape(linear.name), linear.in_features, linear.group_size);
  const bool offsets = linear.layout == "gguf-q4_1";
  const Dtype dtype = offsets ? Dtype::kQ4_1 : linear.bits == 8 ? Dtype::kQ8_0 : Dtype::kQ4_0;
  QC_ASSIGN(const TensorInfo* tensor, Part(linear, "weight", {dtype}, {linear.out_features, linear.in_features}));
  const uint64_t width = InfoOf(dtype).bits / 8;
  const uint64_t groups = GroupsOf(linear);
  const uint64_t rows = std::max<uint64_t>(1, kPieceBytes / (groups * width));
  parameters->scales.resize(groups * outputs.count);
  if (offsets) parameters->offsets.resize(groups * outputs.count);
  std::vector<std::byte> bytes;
  for (uint64_t first = 0; first < outputs.count; first += rows) {
    const uint64_t count = std::min(rows, outputs.count - first);
    bytes.resize(count * groups * width);
    QC_TRY(ReadWindow(linear, *tensor, {outputs.first + first, count, 0, groups}, bytes));
    for (uint64_t i = 0; i < count; ++i) {
      for (uint64_t g = 0; g < groups; ++g) {
        const std::byte* block = bytes.data() + (i * groups + g) * width;
        const uint64_t at = g * outputs.count + first + i;
        parameters->scales[at] = std::bit_cast<uint32_t>(HalfToFloat(Load<uint16_t>(block)));
        if (offsets) parameters->offsets[at] = std::bit_cast<uint32_t>(HalfToFloat(Load<uint16_t>(block + 2)));
      }
    }
  }
  parameters->scale_dtype = Dtype::kF16;
  parameters->offset_dtype = Dtype::kF16;
  if (offsets) ZerosFromOffsets(linear, parameters);
  else parameters->zeros.assign(groups * outputs.count, static_cast<uint16_t>(1U << (linear.bits - 1)));
  return {};
}

}  // namespace q2c
