#include "formats/manifest.h"

#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr std::string_view kFormat = "qwen2-convert-manifest";
constexpr std::string_view kVersion = "1.3";  // 1.2: fingerprint, source_outputs and source_rows; 1.3: padded_… and …_order_of

Json Strings(const std::vector<std::string>& texts) {
  Json list = Json::Array();
  for (const std::string& text : texts) list.items().push_back(Json::String(text));
  return list;
}

Json ShapeJson(const Shape& shape) {
  Json list = Json::Array();
  for (const uint64_t dim : shape) list.items().push_back(Json::Integer(dim));
  return list;
}

// One line an item keeps a manifest of 100,000 tensors readable and short.
void AppendList(std::string* out, std::string_view key, const std::vector<Json>& items, bool last) {
  *out += fmt::format("  \"{}\": [", key);
  for (size_t i = 0; i < items.size(); ++i) *out += fmt::format("{}\n    {}", i == 0 ? "" : ",", items[i].Dump(-1));
  *out += fmt::format("{}]{}\n", items.empty() ? "" : "\n  ", last ? "" : ",");
}

void SetRange(const char* key, const ManifestRange& range, Json* item) {
  if (range.of > 0) item->Set(key, Json::Object({{"first", Json::Integer(range.first)}, {"of", Json::Integer(range.of)}}));
}

// Reads fields of one object; remembers the first that is wrong.
class Fields {
 public:
  explicit Fields(const Json& json) : json_(json) {}
  std::string Text(const char* key) {
    const Json* value = json_.Find(key);
    if (value == nullptr || !value->is_string()) return Wrong(key), std::string();
    return value->text();
  }
  uint64_t Number(const char* key) {
    const Json* value = json_.Find(key);
    const std::optional<uint64_t> number = value == nullptr ? std::nullopt : value->AsU64();
    if (!number.has_value()) Wrong(key);
    return number.value_or(0);
  }
  std::vector<Json> List(const char* key) {
    const Json* value = json_.Find(key);
    if (value == nullptr || !value->is_array()) return Wrong(key), std::vector<Json>();
    return value->items();
  }
  ManifestRange Range(const char* key) {
    const Json* value = json_.Find(key);
    if (value == nullptr) return {};
    const Json* first = value->Find("first");
    const Json* of = value->Find("of");
    if (first == nullptr || of == nullptr || !first->AsU64().has_value() || of->AsU64().value_or(0) == 0) return Wrong(key), ManifestRange();
    return {*first->AsU64(), *of->AsU64()};
  }
  Status Check() const {
    if (wrong_.empty()) return {};
    return Malformed("manifest", "the manifest's '{}' is missing or of the wrong kind", wrong_);
  }

 private:
  void Wrong(const char* key) {
    if (wrong_.empty()) wrong_ = key;
  }
  const Json& json_;
  std::string wrong_;
};

void SetDigests(const ManifestDigests& digests, Json* json) {
  if (!digests.values.empty()) json->Set("fingerprint", Json::Object({{"values", Json::String(digests.values)}, {"qlf1", Json::String(digests.qlf1)}}));
}

Result<ManifestDigests> ReadDigests(const Json& json) {
  const Json* digests = json.Find("fingerprint");
  if (digests == nullptr) return ManifestDigests{};
  Fields fields(*digests);
  ManifestDigests read{fields.Text("values"), fields.Text("qlf1")};
  QC_TRY(fields.Check());
  return read;
}

}  // namespace

std::string WriteManifest(const Manifest& manifest) {
  Json head = Json::Object();
  head.Set("format", Json::String(kFormat));
  head.Set("version", Json::String(kVersion));
  head.Set("tool", Json::Object({{"name", Json::String("qwen2-convert")}, {"version", Json::String(manifest.tool_version)}}));
  head.Set("targets", Strings(manifest.targets));
  head.Set("options", manifest.options);
  head.Set("verify", Json::Object({{"level", Json::String(manifest.verify)}, {"read", Json::String(manifest.verify_read)}}));
  head.Set("publish", Json::String(manifest.publish));
  SetDigests(manifest.fingerprint, &head);
  head.Set("config_edits", manifest.config_edits);

  std::vector<Json> files;
  for (const ManifestFile& file : manifest.files) {
    files.push_back(Json::Object({{"name", Json::String(file.name)}, {"bytes", Json::Integer(file.bytes)}, {"sha256", Json::String(file.sha256)}}));
    files.back().Set("xxh3_128", Json::String(file.xxh3));
    if (file.head_bytes > 0) files.back().Set("head_bytes", Json::Integer(file.head_bytes));
  }
  std::vector<Json> linears;
  for (const ManifestLinear& linear : manifest.linears) {
    linears.push_back(Json::Object({{"name", Json::String(linear.name)}, {"source", Json::String(linear.source)}, {"source_layout", Json::String(linear.source_layout)},
                                    {"layout", Json::String(linear.layout)}, {"in_features", Json::Integer(linear.in_features)}, {"out_features", Json::Integer(linear.out_features)},
                                    {"source_group_size", Json::Integer(linear.source_group_size)}, {"group_size", Json::Integer(linear.group_size)},
                                    {"source_bits", Json::Integer(linear.source_bits)}, {"bits", Json::Integer(linear.bits)}, {"exactness", Json::String(linear.exactness)}}));
    SetRange("source_outputs", linear.source_outputs, &linears.back());
    SetDigests(linear.fingerprint, &linears.back());
    Json& item = linears.back();
    if (linear.OutputInputs() > linear.in_features) item.Set("padded_in_features", Json::Integer(linear.padded_in_features));
    if (linear.OutputOutputs() > linear.out_features) item.Set("padded_out_features", Json::Integer(linear.padded_out_features));
    if (!linear.order_of.empty()) item.Set(linear.orders_inputs ? "input_order_of" : "output_order_of", Json::String(linear.order_of));
  }
  std::vector<Json> tensors;
  for (const ManifestTensor& tensor : manifest.tensors) {
    tensors.push_back(Json::Object({{"name", Json::String(tensor.name)}, {"dtype", Json::String(NameOf(tensor.dtype))}, {"shape", ShapeJson(tensor.shape)}, {"file", Json::String(tensor.file)},
                                    {"xxh3_128", Json::String(tensor.xxh3)}, {"sources", Strings(tensor.sources)}, {"action", Json::String(tensor.action)}, {"exactness", Json::String(tensor.exactness)}}));
    SetRange("source_rows", tensor.source_rows, &tensors.back());
  }
  std::vector<Json> dropped;
  for (const ManifestDrop& drop : manifest.dropped) {
    Json item = Json::Object({{"name", Json::String(drop.name)}, {"action", Json::String(drop.action)}});
    if (!drop.same_as.empty()) item.Set("same_as", Json::String(drop.same_as));
    dropped.push_back(std::move(item));
  }
  std::string out = head.Dump();
  out.resize(out.size() - 2);  // the newline and brace that close it
  out += ",\n";
  AppendList(&out, "files", files, false);
  AppendList(&out, "linears", linears, false);
  AppendList(&out, "tensors", tensors, false);
  AppendList(&out, "dropped", dropped, true);
  return out + "}\n";
}

Result<Manifest> ReadManifest(std::string_view text) {
  QC_ASSIGN(const Json json, ParseJson(text));
  Fields head(json);
  const std::string format = head.Text("format");
  const std::string version = head.Text("version");
  QC_TRY(head.Check());
  if (format != kFormat) return Malformed("manifest", "format is '{}', expected '{}'", Escape(format), kFormat);
  if (!version.starts_with("1.")) return Refused("manifest-version", "manifest version '{}' is not known; this tool reads 1.x", Escape(version));
  Manifest manifest;
  if (const Json* tool = json.Find("tool")) manifest.tool_version = Fields(*tool).Text("version");
  for (const Json& item : head.List("targets")) manifest.targets.push_back(item.text());
  if (const Json* options = json.Find("options")) manifest.options = *options;
  if (const Json* verify = json.Find("verify")) {
    manifest.verify = Fields(*verify).Text("level");
    manifest.verify_read = Fields(*verify).Text("read");
  }
  manifest.publish = head.Text("publish");
  QC_ASSIGN(manifest.fingerprint, ReadDigests(json));
  if (const Json* edits = json.Find("config_edits")) manifest.config_edits = *edits;
  for (const Json& item : head.List("files")) {
    Fields fields(item);
    manifest.files.push_back({fields.Text("name"), fields.Number("bytes"), fields.Text("sha256"), fields.Text("xxh3_128"), item.Find("head_bytes") == nullptr ? 0 : fields.Number("head_bytes")});
    QC_TRY(fields.Check());
  }
  for (const Json& item : head.List("linears")) {
    Fields fields(item);
    manifest.linears.push_back({fields.Text("name"), fields.Text("source"), fields.Text("source_layout"), fields.Text("layout"), fields.Number("in_features"),
                                fields.Number("out_features"), fields.Number("source_group_size"), fields.Number("group_size"), fields.Number("source_bits"), fields.Number("bits"),
                                fields.Text("exactness"), fields.Range("source_outputs")});
    ManifestLinear& linear = manifest.linears.back();
    linear.padded_in_features = item.Find("padded_in_features") == nullptr ? linear.in_features : fields.Number("padded_in_features");
    linear.padded_out_features = item.Find("padded_out_features") == nullptr ? linear.out_features : fields.Number("padded_out_features");
    for (const char* key : {"input_order_of", "output_order_of"}) {
      if (item.Find(key) == nullptr) continue;
      linear.order_of = fields.Text(key);
      linear.orders_inputs = key == std::string_view("input_order_of");
    }
    QC_TRY(fields.Check());
    QC_ASSIGN(manifest.linears.back().fingerprint, ReadDigests(item));
  }
  for (const Json& item : head.List("tensors")) {
    Fields fields(item);
    ManifestTensor tensor;
    tensor.name = fields.Text("name");
    const std::optional<Dtype> dtype = DtypeNamed(fields.Text("dtype"));
    if (!dtype.has_value()) return Malformed("manifest", "tensor '{}' has an unknown dtype", Escape(tensor.name));
    tensor.dtype = *dtype;
    for (const Json& dim : fields.List("shape")) {
      const std::optional<uint64_t> size = dim.AsU64();
      if (!size.has_value()) return Malformed("manifest", "tensor '{}': its shape holds {}", Escape(tensor.name), Escape(dim.Dump(-1), 40));
      tensor.shape.push_back(*size);
    }
    tensor.file = fields.Text("file");
    tensor.xxh3 = fields.Text("xxh3_128");
    for (const Json& source : fields.List("sources")) tensor.sources.push_back(source.text());
    tensor.action = fields.Text("action");
    tensor.exactness = fields.Text("exactness");
    tensor.source_rows = fields.Range("source_rows");
    QC_TRY(fields.Check());
    manifest.tensors.push_back(std::move(tensor));
  }
  for (const Json& item : head.List("dropped")) {
    Fields fields(item);
    manifest.dropped.push_back({fields.Text("name"), fields.Text("action"), item.Find("same_as") == nullptr ? "" : fields.Text("same_as")});
    QC_TRY(fields.Check());
  }
  QC_TRY(head.Check());
  return manifest;
}

}  // namespace q2c
