#include "formats/containers/gguf_value.h"

#include <fmt/format.h>

#include <array>

namespace q2c {
namespace {

struct Kind {
  std::string_view name;
  uint8_t width;  // bytes of one number; 0: no number
};
constexpr std::array<Kind, kGgufTypes> kKinds = {{
    {"u8", 1}, {"i8", 1}, {"u16", 2}, {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4}, {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8},
}};

}  // namespace

std::string_view NameOf(GgufType type) { return kKinds[static_cast<size_t>(type)].name; }
uint64_t WidthOf(GgufType type) { return kKinds[static_cast<size_t>(type)].width; }

GgufValue GgufValue::Raw(GgufType type, bool array, ByteView bytes) {
  return {type, array, std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), {}};  // NOLINT: bytes as text
}

size_t GgufValue::size() const { return is_string() ? texts_.size() : raw_.size() / WidthOf(type_); }

std::string GgufValue::KindName() const {
  if (!array_) return std::string(NameOf(type_));
  return fmt::format("array of {} {}", size(), NameOf(type_));
}

std::optional<int64_t> GgufValue::AsI64(size_t index) const {
  if (index >= size()) return std::nullopt;
  const std::byte* at = AsBytes(raw_).data() + index * WidthOf(type_);
  switch (type_) {
    case GgufType::kU8: return Load<uint8_t>(at);
    case GgufType::kI8: return Load<int8_t>(at);
    case GgufType::kU16: return Load<uint16_t>(at);
    case GgufType::kI16: return Load<int16_t>(at);
    case GgufType::kU32: return Load<uint32_t>(at);
    case GgufType::kI32: return Load<int32_t>(at);
    case GgufType::kI64: return Load<int64_t>(at);
    case GgufType::kU64:
      if (Load<uint64_t>(at) > INT64_MAX) return std::nullopt;
      return static_cast<int64_t>(Load<uint64_t>(at));
    case GgufType::kF32:
    case GgufType::kF64:
    case GgufType::kBool:
    case GgufType::kString:
    case GgufType::kArray: break;
  }
  return std::nullopt;
}

std::optional<uint64_t> GgufValue::AsU64(size_t index) const {
  if (type_ == GgufType::kU64 && index < size()) return Load<uint64_t>(AsBytes(raw_).data() + index * 8);
  const std::optional<int64_t> value = AsI64(index);
  if (!value.has_value() || *value < 0) return std::nullopt;
  return static_cast<uint64_t>(*value);
}

std::optional<double> GgufValue::AsF64(size_t index) const {
  if (type_ == GgufType::kF32 && index < size()) return Load<float>(AsBytes(raw_).data() + index * 4);
  if (type_ == GgufType::kF64 && index < size()) return Load<double>(AsBytes(raw_).data() + index * 8);
  if (const std::optional<uint64_t> value = AsU64(index)) return static_cast<double>(*value);
  if (const std::optional<int64_t> value = AsI64(index)) return static_cast<double>(*value);
  return std::nullopt;
}

std::optional<bool> GgufValue::AsBool(size_t index) const {
  if (type_ != GgufType::kBool || index >= size()) return std::nullopt;
  return raw_[index] != 0;
}

std::optional<std::string_view> GgufValue::AsText(size_t index) const {
  if (index >= texts_.size()) return std::nullopt;
  return texts_[index];
}

const GgufValue* FindGguf(const GgufValues& values, std::string_view key) {
  for (const auto& [name, value] : values) {
    if (name == key) return &value;
  }
  return nullptr;
}

}  // namespace q2c
