#include "verify/reference_parts.h"

#include <bit>

#include "formats/base/half.h"
#include "formats/base/text.h"

namespace q2c {

const TensorInfo* FindPart(const StoredLinear& linear, std::string_view suffix) { return linear.checkpoint->Find(fmt::format("{}.{}", linear.name, suffix)); }

Result<const TensorInfo*> Part(const StoredLinear& linear, std::string_view suffix, std::initializer_list<Dtype> dtypes, const Shape& shape) {
  const TensorInfo* tensor = FindPart(linear, suffix);
  if (tensor == nullptr) return Malformed("tensor-missing", "tensor '{}.{}' is missing", Escape(linear.name), suffix);
  if (std::ranges::find(dtypes, tensor->dtype) == dtypes.end()) {
    return Malformed("tensor-dtype", "tensor '{}': dtype {}, expected {}", Escape(tensor->name), NameOf(tensor->dtype), NameOf(*dtypes.begin()));
  }
  if (tensor->shape != shape) return Malformed("quant-shape", "tensor '{}': shape {}, expected {}", Escape(tensor->name), ShapeText(tensor->shape), ShapeText(shape));
  return tensor;
}

Status ReadWindow(const StoredLinear& linear, const TensorInfo& tensor, const Window& window, MutableBytes out) {
  const DtypeInfo& info = InfoOf(tensor.dtype);
  const uint64_t width = info.bits / 8;
  const uint64_t columns = tensor.shape.back() / info.block;
  const uint64_t rows = tensor.shape.size() == 1 ? 1 : tensor.shape[0];
  if (window.row + window.rows > rows || window.column + window.columns > columns) return Internal("tensor '{}' was to be read beyond its shape", Escape(tensor.name));
  if (window.columns == columns) return linear.checkpoint->Read(tensor, window.row * columns * width, out);
  const uint64_t segment = window.columns * width;
  for (uint64_t r = 0; r < window.rows; ++r) {
    QC_TRY(linear.checkpoint->Read(tensor, ((window.row + r) * columns + window.column) * width, out.subspan(r * segment, segment)));
  }
  return {};
}

std::vector<uint32_t> WidenBits(ByteView bytes, Dtype dtype) {
  if (dtype == Dtype::kF32) return WordsFrom<uint32_t>(bytes);
  std::vector<uint32_t> out(bytes.size() / 2);
  for (size_t i = 0; i < out.size(); ++i) {
    const auto half = Load<uint16_t>(bytes.data() + 2 * i);
    out[i] = std::bit_cast<uint32_t>(dtype == Dtype::kF16 ? HalfToFloat(half) : BfloatToFloat(half));
  }
  return out;
}

Result<std::vector<uint32_t>> ReadFloats(const StoredLinear& linear, const TensorInfo& tensor, const Window& window) {
  std::vector<std::byte> bytes(window.rows * window.columns * InfoOf(tensor.dtype).bits / 8);
  QC_TRY(ReadWindow(linear, tensor, window, bytes));
  return WidenBits(bytes, tensor.dtype);
}

Result<std::vector<uint32_t>> WidenedBits(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  if (!IsFloat16Or32(tensor.dtype)) return Malformed("tensor-dtype", "tensor '{}': dtype {}, expected a float", Escape(tensor.name), NameOf(tensor.dtype));
  QC_ASSIGN(const std::vector<std::byte> bytes, checkpoint.ReadWhole(tensor));
  return WidenBits(bytes, tensor.dtype);
}

}  // namespace q2c
