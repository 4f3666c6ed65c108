#include "convert/undo_record.h"

#include <algorithm>
#include <array>
#include <set>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/text.h"
#include "formats/base/zstd.h"

namespace q2c {
namespace {

constexpr std::string_view kFormat = "qwen2-convert-undo";
constexpr std::string_view kVersion = "1.1";
constexpr std::string_view kMajor = "1.";
constexpr size_t kDigestChars = 64;
constexpr uint64_t kMaxJson = 32U << 20U;  // parsed, JSON takes many times its size
constexpr uint32_t kPermissions = 0777;

struct SpanKind {
  UndoSpan::Kind kind;
  std::string_view name;
  size_t fields;  // of its array, the name included
};
constexpr std::array kSpanKinds = {SpanKind{UndoSpan::Kind::kBytes, "bytes", 2}, SpanKind{UndoSpan::Kind::kZeros, "zeros", 2},
                                   SpanKind{UndoSpan::Kind::kCopy, "copy", 4}, SpanKind{UndoSpan::Kind::kPart, "part", 4}};

template <typename... Args>
Error Damaged(fmt::format_string<Args...> format, Args&&... args) {
  return Malformed("undo-damaged", "the undo record is damaged: {}; without it the input cannot be restored", fmt::format(format, std::forward<Args>(args)...));
}

Json SpanJson(const UndoSpan& span) {
  const SpanKind& kind = *std::ranges::find(kSpanKinds, span.kind, &SpanKind::kind);
  Json json = Json::Array({Json::String(kind.name), Json::Integer(span.bytes)});
  if (span.kind == UndoSpan::Kind::kCopy) {
    json.items().push_back(Json::Integer(uint64_t{span.source}));
    json.items().push_back(Json::Integer(span.at));
  } else if (span.kind == UndoSpan::Kind::kPart) {
    json.items().push_back(Json::Integer(uint64_t{span.source}));
    json.items().push_back(Json::String(span.part));
  }
  return json;
}

Json FileJson(const UndoFile& file) {
  Json spans = Json::Array();
  for (const UndoSpan& span : file.spans) spans.items().push_back(SpanJson(span));
  Json patches = Json::Array();
  for (const UndoPatch& patch : file.patches) patches.items().push_back(Json::Array({Json::Integer(patch.at), Json::Integer(patch.bytes)}));
  return Json::Object({{"name", Json::String(file.name)}, {"mode", Json::String(fmt::format("{:o}", file.mode))}, {"bytes", Json::Integer(file.bytes)},
                       {"sha256", Json::String(file.sha256)}, {"spans", std::move(spans)}, {"patches", std::move(patches)}});
}

// Reads members and items; remembers the first that is wrong, so that a row can be read at once.
class Reader {
 public:
  std::string Text(const Json& json, std::string_view key) { return Text(json.Find(key), key); }
  std::string Text(const Json* value, std::string_view key) {
    if (value == nullptr || !value->is_string()) return Wrong(key), std::string();
    return value->text();
  }
  uint64_t Number(const Json& json, std::string_view key) { return Number(json.Find(key), key); }
  uint64_t Number(const Json* value, std::string_view key) {
    const std::optional<uint64_t> number = value == nullptr ? std::nullopt : value->AsU64();
    if (!number.has_value()) Wrong(key);
    return number.value_or(0);
  }
  const std::vector<Json>& List(const Json& json, std::string_view key) {
    static const std::vector<Json> kNone;
    const Json* value = json.Find(key);
    if (value == nullptr || !value->is_array()) return Wrong(key), kNone;
    return value->items();
  }
  std::string Digest(const Json& json, std::string_view key) {
    std::string text = Text(json, key);
    if (text.size() != kDigestChars || text.find_first_not_of("0123456789abcdef") != std::string::npos) Wrong(key);
    return text;
  }
  // A name that a file can have.
  std::string FileName(const Json& json, std::string_view key) {
    std::string name = Text(json, key);
    if (!IsPlainFileName(name) || !IsUtf8(name) || name.find('\0') != std::string::npos) Wrong(key);
    return name;
  }
  void Wrong(std::string_view key) {
    if (wrong_.empty()) wrong_ = key;
  }
  Status Check() const { return wrong_.empty() ? Status() : Damaged("'{}' is missing or not what it can be", wrong_); }

 private:
  std::string wrong_;
};

UndoSpan ReadSpan(const Json& json, const UndoRecord& record, Reader* read) {
  UndoSpan span;
  const std::vector<Json>& items = json.items();
  const auto kind = std::ranges::find_if(kSpanKinds, [&](const SpanKind& k) { return items.size() == k.fields && items[0].is_string() && items[0].text() == k.name; });
  if (kind == kSpanKinds.end()) return read->Wrong("spans"), span;
  span.kind = kind->kind;
  span.bytes = read->Number(&items[1], "spans");
  if (span.bytes == 0) read->Wrong("spans");
  if (kind->fields == 2) return span;
  const uint64_t source = read->Number(&items[2], "spans");
  const bool copy = span.kind == UndoSpan::Kind::kCopy;
  if (source >= (copy ? record.outputs.size() : record.linears.size())) return read->Wrong("spans"), span;
  span.source = source;
  if (!copy) {
    span.part = read->Text(&items[3], "spans");
    return span;
  }
  span.at = read->Number(&items[3], "spans");
  const uint64_t all = record.outputs[source].bytes;
  if (span.at > all || span.bytes > all - span.at) read->Wrong("spans");
  return span;
}

// `literals` is what is left of the record's; the file takes its own from the front.
Status ReadFile(const Json& json, const UndoRecord& record, ByteView* literals, UndoFile* file) {
  Reader read;
  file->name = read.FileName(json, "name");
  file->bytes = read.Number(json, "bytes");
  file->sha256 = read.Digest(json, "sha256");
  const std::string mode = read.Text(json, "mode");
  for (const char digit : mode) {
    if (digit < '0' || digit > '7' || mode.size() > 3) read.Wrong("mode");
    file->mode = (file->mode * 8 + static_cast<uint32_t>(digit - '0')) & kPermissions;
  }
  if (mode.empty()) read.Wrong("mode");
  CheckedSize total = 0;
  CheckedSize own = 0;
  for (const Json& item : read.List(json, "spans")) {
    file->spans.push_back(ReadSpan(item, record, &read));
    total += file->spans.back().bytes;
    if (file->spans.back().kind == UndoSpan::Kind::kBytes) own += file->spans.back().bytes;
  }
  uint64_t end = 0;
  for (const Json& item : read.List(json, "patches")) {
    if (item.items().size() != 2) read.Wrong("patches");
    QC_TRY(read.Check());
    const UndoPatch patch{read.Number(&item.items()[0], "patches"), read.Number(&item.items()[1], "patches")};
    if (patch.at < end || patch.bytes == 0 || patch.at > file->bytes || patch.bytes > file->bytes - patch.at) read.Wrong("patches");
    end = patch.at + patch.bytes;
    own += patch.bytes;
    file->patches.push_back(patch);
  }
  QC_TRY(read.Check());
  if (total.value() != file->bytes) return Damaged("the spans of '{}' do not make up its {} bytes", Escape(file->name), file->bytes);
  if (!own.value().has_value() || *own.value() > literals->size()) return Damaged("it ends within the bytes of '{}'", Escape(file->name));
  const ByteView mine = literals->first(*own.value());
  file->literals.assign(mine.begin(), mine.end());
  *literals = literals->subspan(mine.size());
  return {};
}

Result<UndoRecord> ReadRecord(const Json& json, ByteView literals) {
  UndoRecord record;
  Reader read;
  record.tool_version = read.Text(json, "tool");
  std::set<std::string> names;
  for (const Json& item : read.List(json, "outputs")) {
    record.outputs.push_back({read.FileName(item, "name"), read.Number(item, "bytes"), read.Digest(item, "sha256")});
    if (!names.insert(record.outputs.back().name).second) read.Wrong("outputs");
  }
  for (const Json& item : read.List(json, "linears")) {
    UndoLinear linear{read.Text(item, "name"), read.Text(item, "layout"), read.Number(item, "in_features"), read.Number(item, "out_features"),
                      read.Number(item, "bits"), read.Number(item, "group_size"), read.Text(item, "source_layout"), read.Number(item, "source_group_size"), ""};
    if (const Json* scales = item.Find("source_scales"); scales != nullptr) linear.source_scales = read.Text(scales, "source_scales");
    record.linears.push_back(std::move(linear));
  }
  QC_TRY(read.Check());
  names.clear();
  for (const Json& item : read.List(json, "files")) {
    UndoFile file;
    QC_TRY(ReadFile(item, record, &literals, &file));
    if (!names.insert(file.name).second) return Damaged("it names '{}' twice", Escape(file.name));
    record.files.push_back(std::move(file));
  }
  QC_TRY(read.Check());
  if (record.files.empty()) return Damaged("it names no files");
  if (!literals.empty()) return Damaged("{} bytes at its end belong to no file", literals.size());
  return record;
}

Error TooLarge(uint64_t bytes, uint64_t limit) {
  return Refused("undo-size", "the undo record would hold {}, and no more than {} can be read again; convert without --undo and keep the input", HumanBytes(bytes), HumanBytes(limit));
}

std::string_view AsText(ByteView bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }  // NOLINT: bytes as text

}  // namespace

Result<std::vector<std::byte>> PackUndo(const UndoRecord& record) {
  Json outputs = Json::Array();
  for (const UndoOutput& output : record.outputs) {
    outputs.items().push_back(Json::Object({{"name", Json::String(output.name)}, {"bytes", Json::Integer(output.bytes)}, {"sha256", Json::String(output.sha256)}}));
  }
  Json linears = Json::Array();
  for (const UndoLinear& linear : record.linears) {
    linears.items().push_back(Json::Object({{"name", Json::String(linear.name)}, {"layout", Json::String(linear.layout)}, {"in_features", Json::Integer(linear.in_features)},
                                            {"out_features", Json::Integer(linear.out_features)}, {"bits", Json::Integer(linear.bits)}, {"group_size", Json::Integer(linear.group_size)},
                                            {"source_layout", Json::String(linear.source_layout)}, {"source_group_size", Json::Integer(linear.source_group_size)}}));
    if (!linear.source_scales.empty()) linears.items().back().Set("source_scales", Json::String(linear.source_scales));
  }
  Json files = Json::Array();
  for (const UndoFile& file : record.files) files.items().push_back(FileJson(file));
  const Json json = Json::Object({{"tool", Json::String(record.tool_version)}, {"outputs", std::move(outputs)}, {"linears", std::move(linears)}, {"files", std::move(files)}});

  std::string body = json.Dump(-1) + "\n";
  if (body.size() > kMaxJson) return TooLarge(body.size(), kMaxJson);
  for (const UndoFile& file : record.files) body += AsText(file.literals);
  const std::string first = fmt::format("{} {} {}\n", kFormat, kVersion, Sha256::Of(AsBytes(body)));
  if (first.size() + body.size() > kMaxUndoBytes) return TooLarge(body.size(), kMaxUndoBytes);
  return ZstdCompress(AsBytes(first + body));
}

Result<UndoRecord> UnpackUndo(ByteView file) {
  const Result<std::vector<std::byte>> content = ZstdDecompress(file, kMaxUndoBytes);
  if (!content.ok()) return Damaged("{}", content.error().message);
  const std::string_view text = AsText(content.value());
  const size_t first = text.find('\n');
  const std::string_view head = text.substr(0, first);
  const std::string begin = fmt::format("{} ", kFormat);
  const size_t space = head.find(' ', begin.size());
  if (first == std::string_view::npos || !head.starts_with(begin) || space == std::string_view::npos) return Damaged("it does not begin with '{}'", kFormat);
  const std::string_view version = head.substr(begin.size(), space - begin.size());
  if (!version.starts_with(kMajor)) return Refused("undo-version", "the undo record has version '{}', this tool reads {}x; take the version of the tool that wrote it", Escape(version, 20), kMajor);
  const std::string_view body = text.substr(first + 1);
  if (head.substr(space + 1) != Sha256::Of(AsBytes(body))) return Damaged("its digest does not fit its content");
  const size_t second = body.find('\n');
  if (second == std::string_view::npos || second > kMaxJson) return Damaged("it holds no list of files");
  const Result<Json> json = ParseJson(body.substr(0, second));
  if (!json.ok()) return Damaged("{}", json.error().message);
  return ReadRecord(json.value(), AsBytes(body.substr(second + 1)));
}

}  // namespace q2c
