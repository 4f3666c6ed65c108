#include "convert/passes/passes.h"

#include <algorithm>
#include <array>
#include <map>

#include "formats/base/text.h"
#include "formats/containers/gguf.h"
#include "formats/containers/safetensors.h"
#include "formats/gguf_metadata.h"

namespace q2c {
namespace {

// Tensors of one linear stay together; everything keeps the order of the source's files.
struct Unit {
  size_t source_file = 0;
  std::string name;
  std::vector<size_t> tensors;
  uint64_t bytes = 0;
};

std::vector<Unit> Units(const Plan& plan) {
  std::map<std::pair<size_t, std::string>, Unit> units;
  const PlannedLinear* last = nullptr;  // the tensors of a linear follow each other
  size_t file = 0;
  Unit* unit = nullptr;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const PlannedTensor& tensor = plan.tensors[i];
    const std::string_view linear = std::string_view(tensor.name).substr(0, tensor.name.rfind('.'));
    if (last == nullptr || last->name != linear) {
      const std::string name(linear);
      const auto found = plan.linears.find(name);
      last = found == plan.linears.end() ? nullptr : &found->second;
      // A linear lies where the source has most of it: with its codes.
      const TensorIndex anchor = last == nullptr ? tensor.input : *last->linear->Part(last->linear->layout->parts.front().suffix);
      file = plan.model->info(anchor).file;
      unit = &units[{file, name}];
      unit->source_file = file;
      unit->name = name;
    }
    unit->tensors.push_back(i);
    unit->bytes += tensor.bytes;
  }
  std::vector<Unit> list;
  for (auto& [key, found] : units) list.push_back(std::move(found));
  return list;
}

// Numbers sort as numbers: blk.2 before blk.10.
std::string NaturalKey(std::string_view name) {
  constexpr size_t kDigits = 8;
  std::string key;
  for (size_t at = 0; at < name.size();) {
    const size_t end = std::min(name.find_first_not_of("0123456789", at), name.size());
    if (end == at) {
      key += name[at++];
      continue;
    }
    key.append(kDigits - std::min(kDigits, end - at), '0').append(name.substr(at, end - at));
    at = end;
  }
  return key;
}

// In GGUF a stack of experts is one tensor and cannot be torn apart; blocks follow each other.
std::vector<Unit> GgufUnits(const Plan& plan) {
  std::map<std::string, Unit> units;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const PlannedTensor& tensor = plan.tensors[i];
    const size_t stack = tensor.name.find("_exps.");
    const std::string name = stack == std::string::npos ? tensor.name : tensor.name.substr(0, stack);
    Unit& unit = units[NaturalKey(name)];
    unit.name = name;
    unit.tensors.push_back(i);
    unit.bytes += tensor.bytes;
  }
  std::vector<Unit> list;
  for (auto& [key, unit] : units) {
    std::ranges::sort(unit.tensors, {}, [&](size_t i) { return NaturalKey(plan.tensors[i].name); });
    list.push_back(std::move(unit));
  }
  return list;
}

// Fills shards one after another; without a limit the source's shards say where to begin anew.
std::vector<std::vector<size_t>> Shards(const Plan& plan, std::vector<Unit> units) {
  std::vector<std::vector<size_t>> shards;
  uint64_t filled = 0;
  size_t last_source = 0;
  for (Unit& unit : units) {
    const bool full = plan.options.shard_bytes.has_value() ? filled + unit.bytes > *plan.options.shard_bytes : unit.source_file != last_source;
    if (shards.empty() || full) {
      shards.emplace_back();
      filled = 0;
    }
    last_source = unit.source_file;
    filled += unit.bytes;
    std::ranges::move(unit.tensors, std::back_inserter(shards.back()));
  }
  return shards;
}

std::string ShardName(size_t shard, size_t count, std::string_view extension) {
  return count == 1 ? fmt::format("model.{}", extension) : fmt::format("model-{:05}-of-{:05}.{}", shard + 1, count, extension);
}

Status PlanSafetensors(Plan* plan) {
  const std::vector<std::vector<size_t>> shards = Shards(*plan, Units(*plan));
  uint64_t total = 0;
  for (size_t s = 0; s < shards.size(); ++s) {
    PlannedFile file;
    file.name = ShardName(s, shards.size(), "safetensors");
    std::vector<SafetensorsEntry> entries;
    file.tensors = shards[s];
    std::ranges::sort(file.tensors, {}, [&](size_t i) { return SafetensorsOrder(plan->tensors[i].dtype, plan->tensors[i].name); });
    for (const size_t i : file.tensors) entries.push_back({plan->tensors[i].name, plan->tensors[i].dtype, plan->tensors[i].shape});
    file.head = BuildSafetensorsHead(entries, plan->target.metadata_format);
    file.bytes = file.head.size();
    for (const size_t i : file.tensors) {
      PlannedTensor& tensor = plan->tensors[i];
      tensor.file = s;
      tensor.offset = file.bytes;
      file.bytes += tensor.bytes;
      total += tensor.bytes;
    }
    plan->files.push_back(std::move(file));
  }
  if (shards.size() > 1) {
    Json weight_map = Json::Object();
    for (const PlannedTensor& tensor : plan->tensors) weight_map.members().emplace_back(tensor.name, Json::String(plan->files[tensor.file].name));
    Json index = Json::Object({{"metadata", Json::Object({{"total_size", Json::Integer(total)}})}, {"weight_map", std::move(weight_map)}});
    plan->texts.push_back({std::string(kIndexName), index.Dump() + "\n"});
  }
  plan->texts.push_back({std::string(kConfigName), plan->config.Dump() + "\n"});
  for (const auto& [name, content] : plan->model->checkpoint->inner_files()) plan->texts.push_back({name, content});
  if (plan->quantize_config.has_value()) plan->texts.push_back({std::string(kQuantizeConfigName), plan->quantize_config->Dump() + "\n"});
  return {};
}

// general.file_type: what most weights are.
uint32_t GgufFileType(const Plan& plan) {
  struct Kind {
    Dtype dtype;
    uint32_t file_type;
  };
  constexpr std::array<Kind, 3> kKinds = {{{Dtype::kQ4_0, 2}, {Dtype::kQ4_1, 3}, {Dtype::kQ8_0, 7}}};
  std::map<uint32_t, uint64_t> votes;
  for (const auto& [name, linear] : plan.linears) {
    const auto kind = std::ranges::find(kKinds, linear.layout->parts.front().dtype.value_or(Dtype::kF16), &Kind::dtype);
    if (kind != kKinds.end()) votes[kind->file_type] += linear.shape.Weights();
  }
  const auto most = std::ranges::max_element(votes, {}, [](const auto& vote) { return vote.second; });
  return most == votes.end() ? 1 : most->first;
}

Status PlanGguf(Plan* plan) {
  const Model& model = *plan->model;
  const Json* hub = plan->config.Find("_name_or_path");
  const std::string name = hub != nullptr && hub->is_string() && !LooksLikeLocalModel(hub->text()) ? hub->text() : model.class_name;
  const auto read = [&](std::string_view file) -> Result<std::optional<std::string>> {
    const auto& sides = model.checkpoint->side_files();
    constexpr uint64_t kMaxTokenizer = 64'000'000;
    for (const auto& [inner, content] : model.checkpoint->inner_files()) {
      if (inner == file) return std::optional(content);
    }
    if (std::ranges::find(sides, file, &SideFile::name) == sides.end()) return std::optional<std::string>();
    QC_ASSIGN(const InputFile in, model.checkpoint->location().OpenMember(std::string(file)));
    QC_ASSIGN(std::string text, in.ReadAll(kMaxTokenizer));
    return std::optional(std::move(text));
  };
  const ExpectedTensor& embedding = model.skeleton.tensors.find("model.embed_tokens.weight")->second;
  QC_ASSIGN(GgufValues values, MakeGgufMetadata({plan->config, read}, GgufFileType(*plan), name, embedding.shape[0]));

  const std::vector<std::vector<size_t>> shards = Shards(*plan, GgufUnits(*plan));
  // A stack of experts counts once.
  const auto stored = std::ranges::count_if(plan->tensors, [](const PlannedTensor& t) { return t.name.find("_exps.") == std::string::npos || t.name.ends_with("_exps.0.weight"); });
  for (size_t s = 0; s < shards.size(); ++s) {
    // The first of several files has the key-values of the model, all have their place in the series.
    GgufValues own = s == 0 ? values : GgufValues();
    if (shards.size() > 1) {
      own.emplace_back("split.no", GgufValue::U16(static_cast<uint16_t>(s)));
      own.emplace_back("split.count", GgufValue::U16(static_cast<uint16_t>(shards.size())));
      own.emplace_back("split.tensors.count", GgufValue::I32(static_cast<int32_t>(stored)));
    }
    std::vector<GgufEntry> entries;
    for (const size_t i : shards[s]) entries.push_back({plan->tensors[i].name, plan->tensors[i].dtype, plan->tensors[i].shape});
    QC_ASSIGN(GgufHead head, BuildGgufHead(own, entries));
    for (size_t i = 0; i < entries.size(); ++i) {
      PlannedTensor& tensor = plan->tensors[shards[s][i]];
      tensor.file = s;
      tensor.offset = head.offsets[i];
      tensor.padding = head.padding[i];
    }
    plan->files.push_back({ShardName(s, shards.size(), "gguf"), std::move(head.bytes), shards[s], head.file_bytes});
  }
  return {};
}

}  // namespace

Status PassFiles(Plan* plan) { return plan->target.container == Container::kGguf ? PlanGguf(plan) : PlanSafetensors(plan); }

}  // namespace q2c
