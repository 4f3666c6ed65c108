#include <algorithm>
#include <set>

#include "formats/base/text.h"
#include "formats/containers/gguf_names.h"

namespace q2c {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr std::string_view kExperts = "_exps";
constexpr uint64_t kDefaultAlignment = 32;

template <typename T>
void Append(T value, std::string* out) {
  const ByteView bytes = std::as_bytes(std::span(&value, 1));
  out->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());  // NOLINT: bytes as text
}
void AppendText(std::string_view text, std::string* out) {
  Append<uint64_t>(text.size(), out);
  out->append(text);
}

Status AppendValue(const std::string& key, const GgufValue& value, std::set<std::string>* seen, std::string* out) {
  if (!IsGgufName(key)) return Malformed("gguf-key", "a key is '{}', expected a name in UTF-8", Escape(key));
  if (!seen->insert(key).second) return Malformed("gguf-key", "key '{}' is to be written twice", Escape(key));
  AppendText(key, out);
  if (value.is_array()) {
    Append(static_cast<uint32_t>(GgufType::kArray), out);
    Append(static_cast<uint32_t>(value.type()), out);
    Append<uint64_t>(value.size(), out);
  } else {
    Append(static_cast<uint32_t>(value.type()), out);
  }
  out->append(value.raw());
  for (const std::string& text : value.texts()) AppendText(text, out);
  return {};
}

// A tensor of the file: one entry, or the consecutive slices of a stack.
struct Group {
  std::string name;
  size_t first = 0;
  size_t count = 1;
  bool stack = false;
};

Result<std::vector<Group>> GroupEntries(const std::vector<GgufEntry>& entries) {
  std::vector<Group> groups;
  std::set<std::string> seen;
  for (size_t i = 0; i < entries.size(); ++i) {
    const GgufEntry& entry = entries[i];
    const std::optional<GgufSlice> slice = GgufSliceOf(entry.name);
    if (slice.has_value() && slice->index > 0) {
      const std::string stacked = GgufStackName(slice->stack);
      Group* group = groups.empty() ? nullptr : &groups.back();
      if (group == nullptr || !group->stack || group->name != stacked || group->count != slice->index) {
        return Refused("gguf-name", "tensor '{}' does not follow expert {} of its stack", Escape(entry.name), slice->index - 1);
      }
      const GgufEntry& first = entries[group->first];
      if (entry.dtype != first.dtype || entry.shape != first.shape) {
        return Refused("gguf-shape", "tensor '{}' is {} {}, but '{}' is {} {}: a stack needs equal ones", Escape(entry.name), NameOf(entry.dtype),
                       ShapeText(entry.shape), Escape(first.name), NameOf(first.dtype), ShapeText(first.shape));
      }
      if (++group->count > kMaxGgufExperts) return Refused("gguf-shape", "'{}' would hold more than {} experts", Escape(stacked), kMaxGgufExperts);
      continue;
    }
    const std::string name = slice.has_value() ? GgufStackName(slice->stack) : entry.name;
    if (!IsGgufName(name)) return Refused("gguf-name", "'{}' is no name for a tensor", Escape(name));
    if (name.size() > kMaxGgufName) return Refused("gguf-name", "'{}' has {} bytes, GGUF holds names of at most {}", Escape(name), name.size(), kMaxGgufName);
    if (!slice.has_value() && GgufStackOf(name).has_value() && entry.shape.size() > 1) {
      return Refused("gguf-name", "'{}' is the name of a stack; its experts must be given one by one", Escape(name));
    }
    if (!seen.insert(name).second) return Refused("gguf-name", "tensor '{}' is to be written twice", Escape(name));
    if (entry.shape.empty() || entry.shape.size() > 2 || (slice.has_value() && entry.shape.size() != 2) || BytesOf(entry.dtype, entry.shape).value_or(0) == 0) {
      return Refused("gguf-shape", "tensor '{}': {} {} cannot be written", Escape(entry.name), NameOf(entry.dtype), ShapeText(entry.shape));
    }
    groups.push_back({name, i, 1, slice.has_value()});
  }
  return groups;
}

}  // namespace

std::optional<std::string_view> GgufStackOf(std::string_view name) {
  if (!name.ends_with(kWeight)) return std::nullopt;
  name.remove_suffix(kWeight.size());
  if (!name.ends_with(kExperts)) return std::nullopt;
  return name;
}

std::optional<GgufSlice> GgufSliceOf(std::string_view name) {
  if (!name.ends_with(kWeight)) return std::nullopt;
  name.remove_suffix(kWeight.size());
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos || !name.substr(0, dot).ends_with(kExperts)) return std::nullopt;
  const std::string_view digits = name.substr(dot + 1);
  if (digits.empty() || digits.size() > 4 || (digits.size() > 1 && digits.front() == '0')) return std::nullopt;
  uint64_t index = 0;
  for (const char c : digits) {
    if (c < '0' || c > '9') return std::nullopt;
    index = 10 * index + static_cast<uint64_t>(c - '0');
  }
  return GgufSlice{name.substr(0, dot), index};
}

std::string GgufStackName(std::string_view stack) { return fmt::format("{}{}", stack, kWeight); }
std::string GgufSliceName(std::string_view stack, uint64_t index) { return fmt::format("{}.{}{}", stack, index, kWeight); }

std::optional<uint64_t> GgufPadded(CheckedSize size, uint64_t alignment) {
  const std::optional<uint64_t> up = (size + (alignment - 1)).value();
  if (!up.has_value()) return std::nullopt;
  return *up & ~(alignment - 1);
}

Result<uint64_t> GgufAlignment(const GgufValues& values) {
  const GgufValue* value = FindGguf(values, "general.alignment");
  if (value == nullptr) return kDefaultAlignment;
  if (value->type() != GgufType::kU32 || value->is_array()) {
    return Malformed("gguf-alignment", "general.alignment is a value of kind {}, expected u32", value->KindName());
  }
  const uint64_t alignment = *value->AsU64();
  if (!std::has_single_bit(alignment)) return Malformed("gguf-alignment", "general.alignment is {}, expected a power of two", alignment);
  return alignment;
}

bool IsGgufName(std::string_view name) { return !name.empty() && IsUtf8(name) && name.find('\0') == std::string_view::npos; }

Result<GgufHead> BuildGgufHead(const GgufValues& values, const std::vector<GgufEntry>& entries) {
  QC_ASSIGN(const uint64_t alignment, GgufAlignment(values));
  QC_ASSIGN(const std::vector<Group> groups, GroupEntries(entries));
  GgufHead head;
  head.bytes = kGgufMagic;
  Append<uint32_t>(3, &head.bytes);
  Append<uint64_t>(groups.size(), &head.bytes);
  Append<uint64_t>(values.size(), &head.bytes);
  std::set<std::string> seen;
  for (const auto& [key, value] : values) QC_TRY(AppendValue(key, value, &seen, &head.bytes));
  uint64_t next = 0;  // within the data section
  for (const Group& group : groups) {
    const GgufEntry& entry = entries[group.first];
    const auto* const type = std::ranges::find(kGgufTensorTypes, entry.dtype, &GgufTensorType::dtype);
    if (type == kGgufTensorTypes.end()) return Refused("gguf-tensor-type", "tensor '{}': llama.cpp holds no weights as {}", Escape(entry.name), NameOf(entry.dtype));
    AppendText(group.name, &head.bytes);
    Append(static_cast<uint32_t>(entry.shape.size() + (group.stack ? 1 : 0)), &head.bytes);
    for (size_t i = entry.shape.size(); i-- > 0;) Append(entry.shape[i], &head.bytes);
    if (group.stack) Append<uint64_t>(group.count, &head.bytes);
    Append(type->id, &head.bytes);
    Append(next, &head.bytes);
    const uint64_t each = *BytesOf(entry.dtype, entry.shape);
    for (uint64_t e = 0; e < group.count; ++e) {
      head.offsets.push_back(next + e * each);
      head.padding.push_back(0);
    }
    const std::optional<uint64_t> end = (CheckedSize(each) * group.count + next).value();
    const std::optional<uint64_t> padded = end.has_value() ? GgufPadded(*end, alignment) : std::nullopt;
    if (!padded.has_value() || *padded > INT64_MAX) return Refused("gguf-shape", "tensor '{}': {} is too large", Escape(entry.name), ShapeText(entry.shape));
    head.padding.back() = *padded - *end;
    next = *padded;
  }
  head.bytes.resize(*GgufPadded(head.bytes.size(), alignment), '\0');
  for (uint64_t& offset : head.offsets) offset += head.bytes.size();
  head.file_bytes = head.bytes.size() + next;
  return head;
}

}  // namespace q2c
