#include <algorithm>

#include "formats/base/half.h"
#include "formats/base/text.h"
#include "verify/compare_parts.h"
#include "verify/reference.h"
#include "verify/reference_parts.h"

namespace q2c {
namespace {

constexpr uint64_t kPieceElements = 1U << 18U;  // a multiple of 32
constexpr uint64_t kBlock = 32;

bool AllZero(ByteView bytes, Dtype dtype) {
  // −0.0 is a zero too: only the top bit of an element may be set.
  const size_t width = InfoOf(dtype).bits / 8;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const bool sign_byte = i % width == width - 1;
    if ((bytes[i] & (sign_byte ? std::byte{0x7F} : std::byte{0xFF})) != std::byte{0}) return false;
  }
  return true;
}

Shape WithoutLeadingOnes(const Shape& shape) {
  auto first = shape.begin();
  while (first != shape.end() && *first == 1) ++first;
  return {first, shape.end()};
}

// A tensor of the source, or rows of it.
struct Read {
  const TensorInfo& tensor;
  Shape shape;
  uint64_t skip = 0;  // bytes before the first row

  Dtype dtype() const { return tensor.dtype; }
  uint64_t Elements() const {
    uint64_t elements = 1;
    for (const uint64_t dim : shape) elements *= dim;  // a tensor that lies in a file: no overflow
    return elements;
  }
};

// Both tensors side by side, in pieces of as many elements.
struct Piece {
  uint64_t first = 0;  // element
  std::vector<std::byte> read;
  std::vector<std::byte> written;
};
template <typename Handle>
Status InPieces(const Checkpoint& source, const Read& read, const Checkpoint& output, const TensorInfo& written, Handle handle) {
  const auto bytes = [](Dtype dtype, uint64_t elements) { return elements / InfoOf(dtype).block * (InfoOf(dtype).bits / 8); };
  Piece piece;
  const uint64_t elements = read.Elements();
  for (; piece.first < elements; piece.first += kPieceElements) {
    const uint64_t count = std::min(kPieceElements, elements - piece.first);
    piece.read.resize(bytes(read.dtype(), count));
    piece.written.resize(bytes(written.dtype, count));
    QC_TRY(source.Read(read.tensor, read.skip + bytes(read.dtype(), piece.first), piece.read));
    QC_TRY(output.Read(written, bytes(written.dtype, piece.first), piece.written));
    QC_TRY(handle(piece));
  }
  return {};
}

Error Differ(const TensorInfo& written, uint64_t element, double before, double after, std::string_view expected = "") {
  return Mismatch("exact-tensor", "tensor '{}': element {} is {} in the source and {} in what was written{}", Escape(written.name), element, before, after, expected);
}

// A float dtype for another.
Status CompareCast(const Checkpoint& source, const Read& read, const Checkpoint& output, const TensorInfo& written, bool rounded, Measure* measure) {
  if (!IsFloat16Or32(read.dtype()) || !IsFloat16Or32(written.dtype)) {
    return Mismatch("exact-tensor", "tensor '{}' is said to be cast from {} to {}, which are not both floats", Escape(written.name), NameOf(read.dtype()), NameOf(written.dtype));
  }
  return InPieces(source, read, output, written, [&](const Piece& piece) -> Status {
    const std::vector<uint32_t> before = WidenBits(piece.read, read.dtype());
    const std::vector<uint32_t> after = WidenBits(piece.written, written.dtype);
    for (size_t i = 0; i < before.size(); ++i) {
      const double exact = NumberOf(before[i]);
      const double stored = NumberOf(after[i]);
      if (before[i] != after[i]) {
        const double expected = RoundedTo(exact, written.dtype);
        const bool nearest = std::isnan(exact) ? std::isnan(stored) : std::isfinite(expected) && FloatBits(expected) == after[i];
        if (!rounded || !nearest) return Differ(written, piece.first + i, exact, stored);
      }
      if (rounded) measure->Add(exact, stored);
    }
    return {};
  });
}

// Blocks of 32 as GGUF's reference quantiser makes them: the largest becomes ±127.
Status CompareQuantised(const Checkpoint& source, const Read& read, const Checkpoint& output, const TensorInfo& written, Measure* measure) {
  if (!IsFloat16Or32(read.dtype()) || written.dtype != Dtype::kQ8_0 || read.shape.empty() || read.shape.back() % kBlock != 0) {
    return Mismatch("exact-tensor", "tensor '{}' is said to be quantised from {} {} to {}; expected rows of blocks of 32 floats and Q8_0", Escape(written.name), NameOf(read.dtype()), ShapeText(read.shape),
                    NameOf(written.dtype));
  }
  return InPieces(source, read, output, written, [&](const Piece& piece) -> Status {
    const std::vector<uint32_t> before = WidenBits(piece.read, read.dtype());
    for (size_t b = 0; b < before.size() / kBlock; ++b) {
      const std::byte* block = piece.written.data() + b * 34;
      const uint64_t first = piece.first + b * kBlock;
      float largest = 0;
      for (size_t i = 0; i < kBlock; ++i) {
        const float x = std::bit_cast<float>(before[b * kBlock + i]);
        if (!std::isfinite(x)) return Mismatch("exact-tensor", "tensor '{}': element {} is {} in the source, which no block can hold", Escape(written.name), first + i, x);
        largest = std::max(largest, std::abs(x));
      }
      const float step = largest / 127.0F;
      const float inverse = step == 0 ? 0.0F : 1.0F / step;
      const double rounded_step = RoundedTo(step, Dtype::kF16);
      const double scale = HalfToFloat(Load<uint16_t>(block));
      if (!std::isfinite(rounded_step) || FloatBits(scale) != FloatBits(rounded_step)) {
        return Mismatch("exact-tensor", "tensor '{}': the scale of the block at element {} is {}, expected {}", Escape(written.name), first, scale, rounded_step);
      }
      // Half a step, what the rounding of the step itself moves (in F16 and, where it is
      // subnormal, in float32), and what float32 makes of x · inverse.
      const double bound = step * (0.5 + 127 * 0x1p-22) + 127 * (std::abs(rounded_step - step) + 0x1p-149);
      for (size_t i = 0; i < kBlock; ++i) {
        const float x = std::bit_cast<float>(before[b * kBlock + i]);
        const double q = Load<int8_t>(block + 2 + i);
        // Halves go away from zero.
        const float scaled = x * inverse;
        const double expected = std::copysign(std::floor(std::abs(double{scaled}) + 0.5), scaled);
        const bool nearest = q == expected || std::isinf(inverse);  // the scale is 0 then, and any code does
        if (!nearest || std::abs(x - scale * q) > bound) return Differ(written, first + i, x, scale * q, fmt::format(", as {} · {}, expected {}", scale, q, expected));
        measure->Add(x, scale * q);
      }
    }
    return {};
  });
}

// Blocks back to float32; no product needs a rounding, only Q4_1's sum does.
Status CompareDequantised(const Checkpoint& source, const Read& read, const Checkpoint& output, const TensorInfo& written, bool rounded, Measure* measure) {
  const bool known = read.dtype() == Dtype::kQ8_0 || read.dtype() == Dtype::kQ4_0 || read.dtype() == Dtype::kQ4_1;
  if (!known || !IsFloat16Or32(written.dtype)) {
    return Mismatch("exact-tensor", "tensor '{}' is said to be dequantised from {} to {}; expected blocks and floats", Escape(written.name), NameOf(read.dtype()), NameOf(written.dtype));
  }
  const size_t width = InfoOf(read.dtype()).bits / 8;
  return InPieces(source, read, output, written, [&](const Piece& piece) -> Status {
    const std::vector<uint32_t> after = WidenBits(piece.written, written.dtype);
    for (size_t i = 0; i < after.size(); ++i) {
      const std::byte* block = piece.read.data() + i / kBlock * width;
      const size_t at = i % kBlock;
      const double scale = HalfToFloat(Load<uint16_t>(block));
      const auto nibble = [&] { return static_cast<int>((std::to_integer<uint32_t>(block[width - 16 + at % 16]) >> (at < 16 ? 0U : 4U)) & 15U); };
      double value = 0;
      if (read.dtype() == Dtype::kQ8_0) value = scale * Load<int8_t>(block + 2 + at);
      else if (read.dtype() == Dtype::kQ4_0) value = scale * (nibble() - 8);
      else value = scale * nibble() + HalfToFloat(Load<uint16_t>(block + 2));
      const double stored = NumberOf(after[i]);
      // A zero keeps the sign that the product gives it.
      const double expected = RoundedTo(static_cast<float>(value), written.dtype);
      if (rounded) measure->Add(value, stored);
      // In float32 the sum of a Q4_1 block is rounded once, which is how GGUF means it.
      const bool same = FloatBits(expected) == FloatBits(stored) && (rounded || written.dtype == Dtype::kF32 || expected == value);
      if (same || (std::isnan(value) && std::isnan(stored))) continue;
      return Differ(written, piece.first + i, value, stored);
    }
    return {};
  });
}

}  // namespace

Result<bool> IsZero(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  bool zero = true;
  QC_TRY(checkpoint.Stream(tensor, [&](ByteView piece) -> Status {
    zero = zero && AllZero(piece, tensor.dtype);
    return {};
  }));
  return zero;
}

Status CompareTensor(const Checkpoint& source, const Checkpoint& output, const ManifestTensor& tensor, Measure* measure) {
  const TensorInfo* written = output.Find(tensor.name);
  if (written == nullptr) return Internal("tensor '{}' has vanished", Escape(tensor.name));  // the accounts saw it
  if (tensor.sources.empty()) {
    QC_ASSIGN(const bool zero, IsZero(output, *written));
    if (!zero) return Mismatch("exact-tensor", "tensor '{}' has no source and is not zero", Escape(tensor.name));
    return {};
  }
  const TensorInfo* found = source.Find(tensor.sources.front());
  if (found == nullptr || tensor.sources.size() != 1) return Mismatch("exact-tensor", "tensor '{}': its source '{}' is not in the input", Escape(tensor.name), Escape(tensor.sources.front()));

  Read read{*found, found->shape};
  if (const ManifestRange& rows = tensor.source_rows; rows.of > 0) {
    if (found->shape.empty() || found->shape.front() != rows.of || rows.first + tensor.shape.front() > rows.of) {  // CheckRanges has seen that they fit
      return Mismatch("exact-tensor", "tensor '{}' is said to be rows {} on of the {} of '{}', which is of shape {}", Escape(tensor.name), rows.first, rows.of, Escape(found->name), ShapeText(found->shape));
    }
    read.skip = found->bytes / rows.of * rows.first;
    read.shape.front() = tensor.shape.front();
  }

  const bool rounded = tensor.exactness == "rounded";
  const bool recast = tensor.action == "cast" || tensor.action == "quantise" || tensor.action == "dequantise";
  // GGUF writes [1, n] as [n].
  if (WithoutLeadingOnes(read.shape) != WithoutLeadingOnes(written->shape) || (!recast && found->dtype != written->dtype)) {
    return Mismatch("exact-tensor", "tensor '{}' is {} of shape {}, its source '{}' is {} of shape {}", Escape(tensor.name), NameOf(written->dtype), ShapeText(written->shape), Escape(found->name), NameOf(found->dtype), ShapeText(read.shape));
  }
  if (tensor.action == "cast") return CompareCast(source, read, output, *written, rounded, measure);
  if (tensor.action == "dequantise") return CompareDequantised(source, read, output, *written, rounded, measure);
  if (tensor.action == "quantise") {
    if (!rounded) return Mismatch("exact-tensor", "tensor '{}' is quantised, but said to be '{}'", Escape(tensor.name), Escape(tensor.exactness));
    return CompareQuantised(source, read, output, *written, measure);
  }
  const auto differs = [&] { return Mismatch("exact-tensor", "tensor '{}' differs from its source '{}'", Escape(tensor.name), Escape(found->name)); };
  if (tensor.source_rows.of > 0) return InPieces(source, read, output, *written, [&](const Piece& piece) { return piece.read == piece.written ? Status() : Status(differs()); });
  QC_ASSIGN(const bool same, SameData(source, *found, output, *written));
  if (!same) return differs();
  return {};
}

}  // namespace q2c
