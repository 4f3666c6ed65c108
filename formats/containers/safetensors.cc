#include "formats/containers/safetensors.h"

#include <algorithm>
#include <tuple>

#include "formats/base/json.h"
#include "formats/base/text.h"
#include "formats/containers/file_kind.h"

namespace q2c {
namespace {

constexpr size_t kMaxRank = 64;
constexpr size_t kMaxTensors = 400'000;

Result<uint64_t> ReadIndex(const Json& value, const std::string& name, std::string_view what) {
  // Offsets and dimensions must be written as plain non-negative integers.
  const bool plain = value.is_number() && std::ranges::all_of(value.text(), [](char c) { return c >= '0' && c <= '9'; });
  const std::optional<uint64_t> number = plain ? value.AsU64() : std::nullopt;
  if (!number.has_value()) {
    return Malformed("safetensors-number", "tensor '{}': {} holds {}, expected whole numbers below 2^64", Escape(name), what,
                     value.is_number() ? Escape(value.text(), 40) : std::string(value.KindName()));
  }
  return *number;
}

Status ReadMetadata(const Json& value, SafetensorsHeader* header) {
  if (!value.is_object()) {
    return Malformed("safetensors-metadata", "__metadata__ is {}, expected an object of strings", value.KindName());
  }
  for (const auto& [key, text] : value.members()) {
    if (!text.is_string()) {
      return Malformed("safetensors-metadata", "__metadata__ key '{}' holds {}, expected a string", Escape(key), text.KindName());
    }
    header->metadata.emplace_back(key, text.text());
  }
  return {};
}

Result<TensorInfo> ReadEntry(const std::string& name, const Json& value, uint64_t data_start, SafetensorsHeader* header) {
  if (!value.is_object()) return Malformed("safetensors-entry", "tensor '{}' is {}, expected an object", Escape(name), value.KindName());
  const Json* dtype = value.Find("dtype");
  const Json* shape = value.Find("shape");
  const Json* offsets = value.Find("data_offsets");
  if (dtype == nullptr || shape == nullptr || offsets == nullptr) {
    return Malformed("safetensors-entry", "tensor '{}' lacks '{}'", Escape(name),
                     dtype == nullptr ? "dtype" : shape == nullptr ? "shape" : "data_offsets");
  }
  if (value.members().size() > 3) header->warnings.push_back(fmt::format("tensor '{}' has keys that the format does not know", Escape(name)));
  TensorInfo tensor;
  tensor.name = name;
  if (!dtype->is_string()) return Malformed("safetensors-entry", "tensor '{}': dtype is {}, expected a string", Escape(name), dtype->KindName());
  const std::optional<Dtype> known = DtypeNamed(dtype->text());
  if (!known.has_value() || InfoOf(*known).block > 1) {
    return Refused("dtype-unknown", "tensor '{}': dtype '{}' is not one of the format's; a newer version may know it", Escape(name), Escape(dtype->text()));
  }
  tensor.dtype = *known;
  if (!shape->is_array() || !offsets->is_array() || offsets->items().size() != 2) {
    return Malformed("safetensors-entry", "tensor '{}': expected shape as a list and data_offsets as a list of two", Escape(name));
  }
  if (shape->items().size() > kMaxRank) {
    return Malformed("safetensors-rank", "tensor '{}': {} dimensions, expected at most {}", Escape(name), shape->items().size(), kMaxRank);
  }
  for (const Json& dim : shape->items()) {
    QC_ASSIGN(const uint64_t size, ReadIndex(dim, name, "shape"));
    tensor.shape.push_back(size);
  }
  QC_ASSIGN(const uint64_t begin, ReadIndex(offsets->items()[0], name, "data_offsets"));
  QC_ASSIGN(const uint64_t end, ReadIndex(offsets->items()[1], name, "data_offsets"));
  const std::optional<uint64_t> bytes = BytesOf(tensor.dtype, tensor.shape);
  if (!bytes.has_value()) {
    return Malformed("safetensors-size", "tensor '{}': {} {} is too large or no whole number of bytes", Escape(name), NameOf(tensor.dtype), ShapeText(tensor.shape));
  }
  if (begin > end || end - begin != *bytes) {
    return Malformed("safetensors-size", "tensor '{}': data_offsets [{},{}] hold {} bytes, expected {} for {} {}", Escape(name), begin, end,
                     begin > end ? 0 : end - begin, *bytes, NameOf(tensor.dtype), ShapeText(tensor.shape));
  }
  const std::optional<uint64_t> offset = (CheckedSize(begin) + data_start).value();
  if (!offset.has_value()) return Malformed("safetensors-size", "tensor '{}': offset {} is too large", Escape(name), begin);
  tensor.offset = *offset;
  tensor.bytes = *bytes;
  return tensor;
}

// Back to back, from the first byte after the header to the last of the file.
Status CheckCoverage(const std::vector<TensorInfo>& tensors, uint64_t data_start, uint64_t file_bytes) {
  uint64_t next = data_start;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.offset > next) {
      return Malformed("safetensors-gap", "tensor '{}' begins at byte {} of the file, expected {}: {} bytes belong to no tensor", Escape(tensor.name), tensor.offset, next, tensor.offset - next);
    }
    if (tensor.offset < next) {
      return Malformed("safetensors-overlap", "tensor '{}' begins at byte {} of the file, expected {}: it overlaps the one before", Escape(tensor.name), tensor.offset, next);
    }
    const std::optional<uint64_t> end = (CheckedSize(next) + tensor.bytes).value();
    if (!end.has_value() || *end > file_bytes) {
      // The sum of all that is declared, to say how much is missing.
      CheckedSize declared = data_start;
      for (const TensorInfo& each : tensors) declared += each.bytes;
      const uint64_t total = declared.value().value_or(UINT64_MAX);
      return Malformed("truncated", "the file has {} bytes, expected {}: {} bytes are missing, the first damaged tensor is '{}'; download or copy it again",
                       file_bytes, total, total - file_bytes, Escape(tensor.name));
    }
    next = *end;
  }
  if (next != file_bytes) {
    return Malformed("trailing-bytes", "the file has {} bytes, expected {}: {} bytes follow the last tensor", file_bytes, next, file_bytes - next);
  }
  return {};
}

}  // namespace

Result<SafetensorsHeader> ParseSafetensorsHeader(ByteView head, uint64_t file_bytes) {
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());  // NOLINT: bytes as text
  const std::string_view start = text.substr(0, 256);
  if (const std::optional<std::string> kind = KnownKind(start)) return Malformed("file-type", "this is {}", *kind);
  if (start.starts_with("PK\x03\x04") || start.starts_with("\x80\x02")) {
    return Malformed("file-type", "this is a {}, not safetensors", start.starts_with('P') ? "ZIP archive or a PyTorch checkpoint" : "Python pickle");
  }
  if (head.size() < 8) return Malformed("truncated", "the file has {} bytes, expected at least 8", head.size());
  const auto header_bytes = Load<uint64_t>(head.data());
  if (header_bytes > kMaxSafetensorsHeader) {
    return Malformed("safetensors-header", "the header claims {} bytes, expected at most {}: not a safetensors file, or a damaged one", header_bytes, kMaxSafetensorsHeader);
  }
  if (header_bytes > file_bytes - 8) {
    return Malformed("truncated", "the header claims {} bytes, but only {} follow: {} bytes are missing of the header alone; download or copy it again", header_bytes, file_bytes - 8, header_bytes - (file_bytes - 8));
  }
  if (header_bytes == 0) return Malformed("safetensors-header", "the header is empty");
  if (head.size() < 8 + header_bytes) return Internal("header of {} bytes, {} given", header_bytes, head.size() - 8);

  std::string_view json = text.substr(8, header_bytes);
  SafetensorsHeader header;
  if (json.front() != '{') header.warnings.emplace_back("white space before the header's '{'");
  const uint64_t data_start = 8 + header_bytes;
  bool has_metadata = false;
  QC_TRY(VisitJsonMembers(json, [&](const std::string& name, const Json& value) -> Status {
    if (name == "__metadata__") {
      has_metadata = true;
      return ReadMetadata(value, &header);
    }
    if (header.tensors.size() == kMaxTensors) return Malformed("safetensors-header", "more than {} tensors", kMaxTensors);
    QC_ASSIGN(TensorInfo tensor, ReadEntry(name, value, data_start, &header));
    header.tensors.push_back(std::move(tensor));
    return {};
  }));
  // An empty tensor shares its offset with its neighbour: it goes first.
  std::ranges::sort(header.tensors, [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  QC_TRY(CheckCoverage(header.tensors, data_start, file_bytes));
  if (header.tensors.empty()) header.warnings.emplace_back("no tensors");
  if (!has_metadata) header.warnings.emplace_back("no metadata: transformers before 4.48 cannot open it");
  return header;
}

Result<SafetensorsHeader> ReadSafetensorsHeader(const InputFile& file) {
  const auto within = [&](Error error) { return std::move(error).Within(fmt::format("file '{}'", Escape(file.path()))); };
  std::vector<std::byte> head(std::min(file.bytes(), kKindBytes));
  QC_TRY(file.ReadAt(0, head));
  if (head.size() >= 8) {
    const auto header_bytes = Load<uint64_t>(head.data());
    // Only a length that the file can hold is believed; anything else fails in the parser.
    if (header_bytes <= kMaxSafetensorsHeader && header_bytes <= file.bytes() - 8) {
      head.resize(8 + header_bytes);
      QC_TRY(file.ReadAt(0, head));
    }
  }
  Result<SafetensorsHeader> header = ParseSafetensorsHeader(head, file.bytes());
  if (!header.ok()) return within(std::move(header).TakeError());
  return header;
}

std::string BuildSafetensorsHead(const std::vector<SafetensorsEntry>& entries, std::string_view format) {
  std::string json = fmt::format(R"({{"__metadata__":{{"format":{}}})", Json::String(format).Dump(-1));
  uint64_t offset = 0;
  for (const SafetensorsEntry& entry : entries) {
    const uint64_t bytes = BytesOf(entry.dtype, entry.shape).value_or(0);
    json += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", Json::String(entry.name).Dump(-1),
                        NameOf(entry.dtype), fmt::join(entry.shape, ","), offset, offset + bytes);
    offset += bytes;
  }
  json += '}';
  json.append((8 - json.size() % 8) % 8, ' ');
  std::string head(8, '\0');
  Store<uint64_t>(std::as_writable_bytes(std::span(head)).data(), json.size());
  return head + json;
}

}  // namespace q2c
