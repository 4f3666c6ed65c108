// Parts of any shape, dtype and content: what detect accepts is decoded inside its bytes, whole and
// in tiles, or refused; what was decoded is encoded and decoded as the same.
#include <deque>
#include <map>

#include "formats/layouts/layout.h"
#include "tests/fuzz/fuzz.h"

namespace {

class Input {
 public:
  explicit Input(q2c::ByteView bytes) : bytes_(bytes) {}
  uint64_t Byte() {
    if (bytes_.empty()) return 0;
    const auto value = std::to_integer<uint64_t>(bytes_.front());
    bytes_ = bytes_.subspan(1);
    return value;
  }
  uint64_t Word() {
    const uint64_t low = Byte();
    return low | Byte() << 8U;
  }
  q2c::ByteView rest() const { return bytes_; }

 private:
  q2c::ByteView bytes_;
};

constexpr uint64_t kMaxBytes = 1U << 16U;  // of a part
constexpr uint8_t kAll = q2c::kCodes | q2c::kZeros | q2c::kScales | q2c::kGroupIndex | q2c::kSizes;

void CheckLayout(const q2c::Layout& layout, const q2c::QuantShape& shape, const q2c::PartSource& source) {
  FUZZ_CHECK(shape.groups > 0 && shape.group_size > 0 && shape.bits > 0);
  const auto whole = q2c::DecodeTile(layout, shape, source, kAll, {0, shape.in_features, 0, shape.out_features});
  FUZZ_CHECK(whole.ok() || whole.error().code != q2c::Code::kInternal);
  // Tiles begin at multiples that every grid of this project divides, and end where they like.
  for (uint64_t n = 0; n < shape.out_features; n += 320) {
    const uint64_t outputs = std::min<uint64_t>(320, shape.out_features - n);
    const auto rows = q2c::DecodeTile(layout, shape, source, kAll, {0, shape.in_features, n, outputs});
    FUZZ_CHECK(rows.ok() || rows.error().code != q2c::Code::kInternal);
    for (uint64_t k = 0; k < shape.in_features; k += 320) {
      const auto codes = q2c::DecodeTile(layout, shape, source, q2c::kCodes, {k, std::min<uint64_t>(320, shape.in_features - k), n, outputs});
      FUZZ_CHECK(codes.ok() || codes.error().code != q2c::Code::kInternal);
    }
  }
  if (!whole.ok() || whole.value().nearest_zeros) return;
  // Codes row by row, as every encoder but the transposes reads them.
  std::vector<uint8_t> row(shape.in_features);
  for (uint64_t n = 0; n < shape.out_features; ++n) q2c::UnpackRow(whole.value(), n, row.data());
  std::map<std::string, std::vector<std::byte>, std::less<>> written;
  for (const q2c::PartCodec& part : layout.parts) {
    const q2c::TensorInfo* info = source.part(part.suffix);
    if (info == nullptr) continue;
    std::vector<std::byte> out(info->bytes);
    if (!part.encode(whole.value(), out).ok()) return;
    written[info->name] = std::move(out);
  }
  q2c::PartSource again = source;
  again.read = [&](const q2c::TensorInfo& info, uint64_t offset, q2c::MutableBytes out) -> q2c::Status {
    FUZZ_CHECK(offset <= info.bytes && out.size() <= info.bytes - offset);
    std::copy_n(written.at(info.name).begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
    return {};
  };
  const auto second = q2c::DecodeTile(layout, shape, again, kAll, {0, shape.in_features, 0, shape.out_features});
  FUZZ_CHECK(second.ok());
  FUZZ_CHECK(second.value().codes == whole.value().codes && second.value().zeros == whole.value().zeros);
  FUZZ_CHECK(second.value().scales == whole.value().scales && second.value().group_index == whole.value().group_index);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static constexpr uint32_t kBits[] = {2, 3, 4, 8};
  static constexpr std::string_view kMethods[] = {"", "awq", "gptq", "compressed-tensors"};
  Input input(FuzzBytes(data, size));
  const q2c::Layout& meant = q2c::Layouts()[input.Byte() % q2c::Layouts().size()];
  q2c::QuantShape shape;
  shape.bits = kBits[input.Byte() % 4];
  shape.in_features = 1 + input.Word() % 1024;
  shape.out_features = 1 + input.Word() % 1024;
  shape.groups = 1 + input.Byte() % 16;
  shape.group_size = q2c::CeilDiv(shape.in_features, shape.groups);
  q2c::LayoutHints hints;
  const uint64_t said = input.Byte();
  hints.method = kMethods[said % 4];
  if ((said & 4U) != 0) hints.bits = shape.bits;
  if ((said & 8U) != 0) hints.group_size = (said & 16U) != 0 ? -1 : static_cast<int64_t>(shape.group_size);
  const q2c::Dtype scales = q2c::kDtypes[4 + input.Byte() % 5].dtype;  // F32 … F16

  std::deque<q2c::TensorInfo> infos;
  for (const q2c::PartCodec& part : meant.parts) {
    const uint64_t how = input.Byte();
    if (how % 16 == 1) continue;
    q2c::TensorInfo info;
    info.name = std::string("l.").append(part.suffix);
    info.dtype = how % 16 == 2 ? q2c::kDtypes[input.Byte() % q2c::kDtypes.size()].dtype : part.dtype.value_or(scales);
    info.shape = part.shape(shape);
    if (how % 16 == 3) {
      info.shape.resize(input.Byte() % 4);
      for (uint64_t& dim : info.shape) dim = input.Word();
    }
    // A container has held size against shape and file.
    const auto bytes = q2c::BytesOf(info.dtype, info.shape);
    if (!bytes.has_value() || *bytes > kMaxBytes) continue;
    info.bytes = *bytes;
    infos.push_back(info);
  }
  std::vector<const q2c::TensorInfo*> parts;
  for (const q2c::TensorInfo& info : infos) parts.push_back(&info);

  const q2c::ByteView payload = input.rest();
  q2c::PartSource source;
  source.part = [&](std::string_view suffix) -> const q2c::TensorInfo* {
    for (const q2c::TensorInfo& info : infos) {
      if (info.name.substr(2) == suffix) return &info;
    }
    return nullptr;
  };
  source.read = [&](const q2c::TensorInfo& info, uint64_t offset, q2c::MutableBytes out) -> q2c::Status {
    FUZZ_CHECK(offset <= info.bytes && out.size() <= info.bytes - offset);
    for (size_t i = 0; i < out.size(); ++i) out[i] = payload.empty() ? std::byte{0} : payload[(offset + i) % payload.size()];
    return {};
  };
  for (const q2c::Layout& layout : q2c::Layouts()) {
    const auto found = layout.detect("l", shape.in_features, shape.out_features, parts, hints);
    if (found.ok() && found.value().has_value()) CheckLayout(layout, *found.value(), source);
  }
  return 0;
}
