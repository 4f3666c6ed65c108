#include "convert/passes/passes.h"

#include <algorithm>
#include <map>

#include "formats/containers/safetensors.h"

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
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const PlannedTensor& tensor = plan.tensors[i];
    const auto [linear, part] = SplitPart(tensor.name);
    // A linear lies where the source has most of it: with its codes.
    const auto found = plan.model->linears.find(linear);
    const bool quantised = found != plan.model->linears.end() && found->second.quantised();
    const TensorIndex anchor = quantised ? found->second.parts.at(std::string(found->second.layout->parts.front().suffix)) : tensor.input;
    const size_t file = plan.model->info(anchor).file;
    Unit& unit = units[{file, linear}];
    unit.source_file = file;
    unit.name = linear;
    unit.tensors.push_back(i);
    unit.bytes += tensor.bytes;
  }
  std::vector<Unit> list;
  for (auto& [key, unit] : units) list.push_back(std::move(unit));
  return list;
}

}  // namespace

Status PassFiles(Plan* plan) {
  std::vector<std::vector<size_t>> shards;
  uint64_t filled = 0;
  size_t last_source = 0;
  for (Unit& unit : Units(*plan)) {
    const bool full = plan->options.shard_bytes.has_value() ? filled + unit.bytes > *plan->options.shard_bytes : unit.source_file != last_source;
    if (shards.empty() || full) {
      shards.emplace_back();
      filled = 0;
    }
    last_source = unit.source_file;
    filled += unit.bytes;
    std::ranges::move(unit.tensors, std::back_inserter(shards.back()));
  }

  Json weight_map = Json::Object();
  uint64_t total = 0;
  for (size_t s = 0; s < shards.size(); ++s) {
    PlannedFile file;
    file.name = shards.size() == 1 ? "model.safetensors" : fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
    std::map<std::string, size_t> index;
    std::vector<SafetensorsEntry> entries;
    for (const size_t i : shards[s]) {
      const PlannedTensor& tensor = plan->tensors[i];
      index[tensor.name] = i;
      entries.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
    SortForSafetensors(&entries);
    file.head = BuildSafetensorsHead(entries);
    file.bytes = file.head.size();
    for (const SafetensorsEntry& entry : entries) {
      PlannedTensor& tensor = plan->tensors[index.at(entry.name)];
      tensor.file = s;
      tensor.offset = file.bytes;
      file.bytes += tensor.bytes;
      total += tensor.bytes;
      file.tensors.push_back(index.at(entry.name));
    }
    plan->files.push_back(std::move(file));
  }
  if (shards.size() > 1) {
    for (const PlannedTensor& tensor : plan->tensors) weight_map.members().emplace_back(tensor.name, Json::String(plan->files[tensor.file].name));
    Json index = Json::Object({{"metadata", Json::Object({{"total_size", Json::Integer(total)}})}, {"weight_map", std::move(weight_map)}});
    plan->texts.push_back({std::string(kIndexName), index.Dump() + "\n"});
  }
  plan->texts.push_back({std::string(kConfigName), plan->config.Dump() + "\n"});
  plan->texts.push_back({std::string(kQuantizeConfigName), plan->quant_block.Dump() + "\n"});
  return {};
}

}  // namespace q2c
