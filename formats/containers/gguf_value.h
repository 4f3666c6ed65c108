// The key-values of a GGUF file: numbers, truth values, texts, and lists of them.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "formats/base/bytes.h"

namespace q2c {

// Numbered as in the file.
enum class GgufType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
inline constexpr size_t kGgufTypes = 13;
std::string_view NameOf(GgufType type);  // "u32", "string"
uint64_t WidthOf(GgufType type);         // bytes of one number; 0 for strings and arrays

// One value: a number, a truth value, a text, or a list of equal ones. Numbers keep their bits.
class GgufValue {
 public:
  static GgufValue U8(uint8_t value) { return Number(GgufType::kU8, value); }
  static GgufValue I8(int8_t value) { return Number(GgufType::kI8, value); }
  static GgufValue U16(uint16_t value) { return Number(GgufType::kU16, value); }
  static GgufValue I16(int16_t value) { return Number(GgufType::kI16, value); }
  static GgufValue U32(uint32_t value) { return Number(GgufType::kU32, value); }
  static GgufValue I32(int32_t value) { return Number(GgufType::kI32, value); }
  static GgufValue U64(uint64_t value) { return Number(GgufType::kU64, value); }
  static GgufValue I64(int64_t value) { return Number(GgufType::kI64, value); }
  static GgufValue F32(float value) { return Number(GgufType::kF32, value); }
  static GgufValue F64(double value) { return Number(GgufType::kF64, value); }
  static GgufValue Bool(bool value) { return Number(GgufType::kBool, static_cast<uint8_t>(value ? 1 : 0)); }
  static GgufValue String(std::string text) { return {GgufType::kString, false, {}, {std::move(text)}}; }
  static GgufValue Strings(std::vector<std::string> texts) { return {GgufType::kString, true, {}, std::move(texts)}; }
  static GgufValue I32s(const std::vector<int32_t>& values) { return Numbers(GgufType::kI32, values); }
  static GgufValue U32s(const std::vector<uint32_t>& values) { return Numbers(GgufType::kU32, values); }
  static GgufValue F32s(const std::vector<float>& values) { return Numbers(GgufType::kF32, values); }
  // Numbers or truth values as they stand in a file: whole elements, little-endian, each bool 0 or 1.
  static GgufValue Raw(GgufType type, bool array, ByteView bytes);

  GgufType type() const { return type_; }  // of an array: of its elements
  bool is_array() const { return array_; }
  bool is_string() const { return type_ == GgufType::kString; }
  size_t size() const;                // elements; 1 if this is no array
  std::string KindName() const;       // for messages: "u32", "array of 3 strings"

  // Typed access; nothing where the kind or the range does not fit, or the index is too large.
  std::optional<uint64_t> AsU64(size_t index = 0) const;  // any integer type
  std::optional<int64_t> AsI64(size_t index = 0) const;
  std::optional<double> AsF64(size_t index = 0) const;    // floats and integers
  std::optional<bool> AsBool(size_t index = 0) const;
  std::optional<std::string_view> AsText(size_t index = 0) const;

  const std::vector<std::string>& texts() const { return texts_; }  // empty for numbers
  const std::string& raw() const { return raw_; }                   // empty for texts

  friend bool operator==(const GgufValue&, const GgufValue&) = default;

 private:
  GgufValue(GgufType type, bool array, std::string raw, std::vector<std::string> texts)
      : type_(type), array_(array), raw_(std::move(raw)), texts_(std::move(texts)) {}
  template <typename T>
  static GgufValue Number(GgufType type, T value) { return Raw(type, false, std::as_bytes(std::span(&value, 1))); }
  template <typename T>
  static GgufValue Numbers(GgufType type, const std::vector<T>& values) { return Raw(type, true, AsBytes(values)); }

  GgufType type_;
  bool array_;
  std::string raw_;
  std::vector<std::string> texts_;
};

using GgufValues = std::vector<std::pair<std::string, GgufValue>>;  // in file order

// Null where the key is absent.
const GgufValue* FindGguf(const GgufValues& values, std::string_view key);

}  // namespace q2c
