#include <algorithm>
#include <set>

#include "convert/plan.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

std::string SourceName(const Plan& plan, const PlannedTensor& tensor) {
  return tensor.HasSource() ? plan.model->info(tensor.input).name : "";
}

std::string ValueText(const std::optional<Json>& value) {
  return value.has_value() ? Escape(value->Dump(-1), 60) : "(absent)";
}

std::string GroupText(const QuantShape& shape) {
  return shape.groups == 1 ? "one group" : fmt::format("groups of {}", shape.group_size);
}

// "14 linears of 4 bits in groups of 128, 'gptq-v1', symmetric"
std::vector<std::string> LinearKinds(const Model& model) {
  std::map<std::string, size_t> kinds;
  for (const auto& [name, linear] : model.linears) {
    if (!linear.quantised()) continue;
    ++kinds[fmt::format("{} bits, {}, {}{}, stored as {}", linear.traits.shape.bits, GroupText(linear.traits.shape), linear.traits.symmetric ? "symmetric" : "asymmetric",
                        linear.traits.act_order ? ", act-order" : "", linear.layout->name)];
  }
  std::vector<std::string> lines;
  for (const auto& [kind, count] : kinds) lines.push_back(fmt::format("{} linears: {}", count, kind));
  return lines;
}

// Tensors by what is done with them: (action, exactness), (drop, why).
struct Deed {
  std::vector<std::string> names;
  std::string reason;
};
std::map<std::pair<std::string, std::string>, Deed> Deeds(const Plan& plan) {
  std::map<std::pair<std::string, std::string>, Deed> deeds;
  const auto add = [&](std::string action, std::string_view how, const std::string& name, const std::string& reason) {
    Deed& deed = deeds[{std::move(action), std::string(how)}];
    deed.names.push_back(name);
    if (deed.reason.empty()) deed.reason = reason;
  };
  for (const PlannedTensor& tensor : plan.tensors) add(tensor.action, NameOf(tensor.exactness), tensor.name, tensor.reason);
  for (const DroppedTensor& drop : plan.dropped) add("drop", drop.action, drop.name, drop.reason);
  return deeds;
}

Json NotesJson(const std::vector<Note>& notes) {
  Json list = Json::Array();
  for (const Note& note : notes) list.items().push_back(Json::Object({{"id", Json::String(note.id)}, {"message", Json::String(note.message)}}));
  return list;
}

// What the model is read as.
std::string ArchitectureOf(const Model& model) { return model.architecture.IsGeneric() ? "generic" : model.architecture.model_type; }

}  // namespace

std::string PlanText(const Plan& plan, bool every_tensor) {
  const Model& model = *plan.model;
  std::string out = fmt::format("input   '{}': {}, {} layers, {} tensors in {} files\n", Escape(model.checkpoint->path()), ClassText(model), model.skeleton.layers,
                                model.checkpoint->tensors().size(), model.checkpoint->files().size());
  for (const std::string& line : LinearKinds(model)) out += fmt::format("        {}\n", line);
  if (!model.zero_verdict.evidence.empty()) out += fmt::format("        zero points: {}\n", model.zero_verdict.evidence);
  out += fmt::format("target  {}: layout '{}', {} files, {}\n", plan.target.name, Join(plan.LayoutNames(), "', '"), plan.files.size(), HumanBytes(plan.OutputBytes()));

  out += "tensors\n";
  for (const auto& [key, deed] : Deeds(plan)) {
    out += fmt::format("  {:5}  {} ({}): {}\n         e.g. {}\n", deed.names.size(), key.first, key.second, deed.reason, QuoteSome(deed.names, every_tensor ? deed.names.size() : 2));
  }
  if (!plan.repairs.empty()) out += "repairs\n";
  for (const Repair& repair : Repairs()) {
    const auto done = plan.repairs.find(repair.id);
    if (done == plan.repairs.end()) continue;
    out += fmt::format("  {:5}  {}: {}\n         e.g. '{}'\n", done->second.count, repair.id, done->second.made ? std::string(repair.what) : fmt::format("left undone ({})", plan.options.repairs.Why(repair.id)),
                       Escape(done->second.first));
  }
  if (!plan.edits.empty()) out += "configs\n";
  for (const ConfigEdit& edit : plan.edits) {
    if (edit.key.empty()) {
      out += fmt::format("  {}: {} [{}]\n", edit.file, edit.reason, edit.repair);
    } else {
      out += fmt::format("  {}: {}: {} -> {}: {} [{}]\n", edit.file, Escape(edit.key), ValueText(edit.before), ValueText(edit.after), edit.reason, edit.repair);
    }
  }
  if (const auto same = std::ranges::count_if(plan.files, [](const PlannedFile& file) { return file.same_as.has_value(); }); same > 0) out += fmt::format("byte for byte  {} weight files\n", same);
  if (const size_t sides = plan.SideFiles().size(); sides > 0) out += fmt::format("byte for byte  {} other files\n", sides);
  if (!plan.notes.empty()) out += "notes\n";
  for (const Note& note : plan.notes) out += fmt::format("  {} [{}]\n", note.message, note.id);
  return out;
}

Json EditsJson(const std::vector<ConfigEdit>& edits) {
  Json list = Json::Array();
  for (const ConfigEdit& edit : edits) {
    Json item = Json::Object({{"file", Json::String(edit.file)}, {"key", Json::String(edit.key)}});
    if (edit.before.has_value() && !edit.private_value) item.Set("before", *edit.before);
    if (edit.after.has_value()) item.Set("after", *edit.after);
    item.Set("reason", Json::String(edit.reason));
    item.Set("repair", Json::String(edit.repair));
    list.items().push_back(std::move(item));
  }
  return list;
}

Json RepairsDoneJson(const Plan& plan) {
  Json list = Json::Array();
  for (const Repair& repair : Repairs()) {
    const auto done = plan.repairs.find(repair.id);
    if (done == plan.repairs.end()) continue;
    list.items().push_back(Json::Object({{"id", Json::String(repair.id)}, {"made", Json::Bool(done->second.made)}, {"count", Json::Integer(done->second.count)}, {"example", Json::String(done->second.first)},
                                         {"what", Json::String(repair.what)}}));
  }
  return list;
}

// Is this tensor of the input one of those that the output tensor is encoded from?
bool EncodedFrom(const Plan& plan, const PlannedTensor& tensor, const std::string& name) {
  if (tensor.part == nullptr) return false;
  return std::ranges::any_of(tensor.linear->linear->layout->parts, [&](const PartCodec& part) {
    const std::optional<TensorIndex> index = tensor.linear->linear->Part(part.suffix);
    return index.has_value() && (part.components & tensor.part->components) != 0 && plan.model->info(*index).name == name;
  });
}

Json PlanJson(const Plan& plan) {
  const Model& model = *plan.model;
  Json tensors = Json::Array();
  for (const PlannedTensor& tensor : plan.tensors) {
    Json shape = Json::Array();
    for (const uint64_t dim : tensor.shape) shape.items().push_back(Json::Integer(dim));
    std::vector<Json::Member> item;
    item.reserve(8);  // there may be 146,000 of them
    item.emplace_back("name", Json::String(tensor.name));
    item.emplace_back("dtype", Json::String(NameOf(tensor.dtype)));
    item.emplace_back("shape", std::move(shape));
    item.emplace_back("file", Json::String(plan.files[tensor.file].name));
    item.emplace_back("action", Json::String(tensor.action));
    item.emplace_back("exactness", Json::String(NameOf(tensor.exactness)));
    item.emplace_back("reason", Json::String(tensor.reason));
    if (const std::string source = SourceName(plan, tensor); !source.empty()) item.emplace_back("source", Json::String(source));
    tensors.items().push_back(Json::Object(std::move(item)));
  }
  Json dropped = Json::Array();
  for (const DroppedTensor& drop : plan.dropped) {
    dropped.items().push_back(Json::Object({{"source", Json::String(model.info(drop.input).name)}, {"action", Json::String(drop.action)}, {"reason", Json::String(drop.reason)}}));
  }
  Json files = Json::Array();
  for (const PlannedFile& file : plan.files) files.items().push_back(Json::Object({{"name", Json::String(file.name)}, {"bytes", Json::Integer(file.bytes)}}));
  for (const TextFile& text : plan.texts) files.items().push_back(Json::Object({{"name", Json::String(text.name)}, {"bytes", Json::Integer(uint64_t{text.content.size()})}}));
  for (const SideFile& side : plan.SideFiles()) files.items().push_back(Json::Object({{"name", Json::String(side.name)}, {"bytes", Json::Integer(side.bytes)}}));
  Json document = Json::Object({{"schema", Json::Integer(1)},
                                {"input", Json::String(model.checkpoint->path())},
                                {"class", Json::String(model.class_name)},
                                {"architecture", Json::String(ArchitectureOf(model))},
                                {"target", Json::String(plan.target.name)},
                                {"layout", Json::String(Join(plan.LayoutNames(), "+"))},
                                {"exactness", Json::String(NameOf(plan.Worst()))},
                                {"zero_points", Json::String(model.zero_verdict.evidence)},
                                {"bytes", Json::Integer(plan.OutputBytes())},
                                {"files", std::move(files)}});
  // A list in braces would copy these.
  document.Set("tensors", std::move(tensors));
  document.Set("dropped", std::move(dropped));
  document.Set("repairs", RepairsDoneJson(plan));
  document.Set("config_edits", EditsJson(plan.edits));
  document.Set("notes", NotesJson(plan.notes));
  return document;
}

Json PlanSummaryJson(const Plan& plan) {
  const Model& model = *plan.model;
  Json linears = Json::Array();
  for (const std::string& line : LinearKinds(model)) linears.items().push_back(Json::String(line));
  Json done = Json::Array();
  for (const auto& [key, deed] : Deeds(plan)) {
    done.items().push_back(Json::Object({{"action", Json::String(key.first)}, {key.first == "drop" ? "why" : "exactness", Json::String(key.second)}, {"tensors", Json::Integer(uint64_t{deed.names.size()})},
                                         {"example", Json::String(deed.names.front())}, {"reason", Json::String(deed.reason)}}));
  }
  return Json::Object({{"found", Json::Object({{"class", Json::String(model.class_name)}, {"architecture", Json::String(ArchitectureOf(model))}, {"layers", Json::Integer(model.skeleton.layers)}, {"tensors", Json::Integer(uint64_t{model.checkpoint->tensors().size()})},
                                               {"linears", std::move(linears)}, {"zero_points", Json::String(model.zero_verdict.evidence)}, {"notes", NotesJson(plan.notes)}})},
                       {"done", std::move(done)},
                       {"repairs", RepairsDoneJson(plan)},
                       {"config_edits", EditsJson(plan.edits)}});
}

Result<std::string> ExplainTensor(const Plan& plan, const std::string& name) {
  const Model& model = *plan.model;
  std::string out;
  for (const DroppedTensor& drop : plan.dropped) {
    if (drop.name != name && model.info(drop.input).name != name) continue;
    const TensorInfo& info = model.info(drop.input);
    out += fmt::format("tensor '{}'\n  input   {} {} in '{}'\n  output  none: dropped ({})\n  reason  {}\n", Escape(info.name), NameOf(info.dtype), ShapeText(info.shape),
                       Escape(model.checkpoint->files()[info.file].name), drop.action, drop.reason);
  }
  for (const PlannedTensor& tensor : plan.tensors) {
    const std::string source = SourceName(plan, tensor);
    if (tensor.name != name && source != name && !EncodedFrom(plan, tensor, name)) continue;
    out += fmt::format("tensor '{}'\n", Escape(tensor.name));
    if (source.empty()) {
      out += "  input   none\n";
    } else {
      const TensorInfo& info = model.info(tensor.input);
      out += fmt::format("  input   '{}' {} {} in '{}'\n", Escape(info.name), NameOf(info.dtype), ShapeText(info.shape), Escape(model.checkpoint->files()[info.file].name));
    }
    out += fmt::format("  output  {} {} in '{}' at byte {}, {} bytes\n  action  {} ({})\n  reason  {}\n", NameOf(tensor.dtype), ShapeText(tensor.shape), plan.files[tensor.file].name,
                       tensor.offset, tensor.bytes, tensor.action, NameOf(tensor.exactness), tensor.reason);
    const auto linear = std::ranges::find(plan.linears, SplitPart(tensor.name).first, [](const auto& entry) { return entry.second.name; });
    if (linear == plan.linears.end()) continue;
    const Linear& stored = *linear->second.linear;
    const QuantShape& shape = stored.traits.shape;
    out += fmt::format("  linear  {} inputs, {} outputs, {} bits, {}, {}, stored as {}\n", shape.in_features, shape.out_features, shape.bits, GroupText(shape),
                       stored.traits.symmetric ? "symmetric" : "asymmetric", stored.layout->name);
  }
  if (out.empty()) return Usage("tensor", "tensor '{}' is neither in the input nor in the output", Escape(name));
  return out;
}

}  // namespace q2c
