#include "convert/plan.h"

#include <algorithm>
#include <array>
#include <set>

#include "convert/passes/passes.h"
#include "formats/base/text.h"

namespace q2c {

std::string_view NameOf(Exactness exactness) {
  switch (exactness) {
    case Exactness::kSameBytes: return "same-bytes";
    case Exactness::kSameCodes: return "same-codes";
    case Exactness::kSameValues: return "same-values";
    case Exactness::kRounded: return "rounded";
  }
  return "rounded";
}

bool Plan::Makes(std::string_view repair, const std::string& subject) {
  RepairDone& done = repairs[std::string(repair)];
  done.made = options.repairs.Wants(repair);
  if (done.count++ == 0) done.first = subject;
  return done.made;
}

Result<bool> Plan::Wants(std::string_view repair, const std::string& subject) {
  const bool made = Makes(repair, subject);
  const Repair& row = *FindRepair(repair);
  if (made || row.without != Without::kRefused) return made;
  return Refused("repair-skipped", "'{}' needs the repair '{}' ({}), but {} leaves it out", Escape(subject), repair, row.what, options.repairs.Why(repair));
}

std::vector<SideFile> Plan::SideFiles() const {
  std::vector<SideFile> list;
  if (!side_files) return list;
  for (const SideFile& side : model->checkpoint->side_files()) {
    if (std::ranges::find(texts, side.name, &TextFile::name) == texts.end()) list.push_back(side);  // else written anew
  }
  return list;
}

uint64_t Plan::OutputBytes() const {
  uint64_t bytes = 0;
  for (const PlannedFile& file : files) bytes += file.bytes;
  for (const TextFile& text : texts) bytes += text.content.size();
  for (const SideFile& side : SideFiles()) bytes += side.bytes;
  return bytes;
}

std::vector<std::string> Plan::LayoutNames() const {
  std::set<std::string> names;
  for (const auto& [name, linear] : linears) names.emplace(linear.layout->name);
  if (names.empty()) names.emplace(target.layouts.front().layout->name);  // all was float before
  return {names.begin(), names.end()};
}

Exactness Plan::Worst() const {
  Exactness worst = Exactness::kSameBytes;
  for (const PlannedTensor& tensor : tensors) worst = std::max(worst, tensor.exactness);
  return worst;
}

uint64_t Plan::InputOffset(const PlannedTensor& tensor) const {
  return tensor.rows.IsPart() ? tensor.rows.first * (model->info(tensor.input).bytes / tensor.rows.of) : 0;
}

std::string_view Plan::Method() const {
  const auto quantised = std::ranges::find_if(linears, [](const auto& entry) { return entry.second.quantised(); });
  return quantised == linears.end() ? "" : quantised->second.layout->method;
}

std::map<std::string, size_t, std::less<>> Plan::ByName() const {
  std::map<std::string, size_t, std::less<>> names;
  for (size_t i = 0; i < tensors.size(); ++i) names.emplace(tensors[i].name, i);
  return names;
}

namespace {

// What cannot be done with a model of which only the tensors are known.
Status CheckGeneric(const Model& model, const Target& target, const PlanOptions& options) {
  if (!model.architecture.IsGeneric()) return {};
  const auto refuse = [&](std::string_view what, std::string_view why) {
    return Refused("arch-generic", "{}: model_type '{}' is not known and taken as it is (--arch=generic), but {}", what, Escape(model.architecture.model_type), why);
  };
  const bool mlx = std::ranges::any_of(target.layouts, [](const LayoutRule& rule) { return rule.layout->method == "mlx"; });
  const std::string named = fmt::format("target '{}'", target.name);
  if (target.container == Container::kGguf) return refuse(named, "a GGUF file names tensors and settings in words of its own, which nobody can tell for it");
  if (mlx) return refuse(named, "mlx-lm quantises by the names of modules, embeddings included, and which these are nobody can tell");
  if (target.biases == BiasPolicy::kEveryQuantised) return refuse(named, "its loaders build a bias on every quantised linear, and where one belongs nobody can tell");
  if (options.pad_intermediate.has_value()) return refuse("--pad-intermediate", "which linears feed which nobody can tell");
  return {};
}

}  // namespace

Result<Plan> MakePlan(const Model& model, const Target& target, const PlanOptions& options) {
  QC_TRY(CheckGeneric(model, target, options));
  if (const std::string* why = target.RefusesArchitecture(model.architecture.model_type)) {
    const auto first = std::ranges::find_if(model.linears, [](const auto& entry) { return entry.second.quantised(); });
    return Refused("target-architecture", "target '{}' cannot take model_type '{}' (linear '{}' and its like): {}", target.name, model.architecture.model_type, first->first, *why);
  }
  const bool gguf = target.container == Container::kGguf;
  if (gguf && model.architecture.HasVision() && !model.text_only) {
    return Refused("vision-gguf", "{} has a vision tower, for which GGUF has a file of its own (mmproj) that is not written; with --text-only its text model is converted alone", model.class_name);
  }
  if (model.text_only && !gguf) return Refused("text-only", "--text-only: target '{}' loads {} only whole; a text model alone can be written as GGUF", target.name, model.class_name);
  Plan plan;
  plan.model = &model;
  plan.target = target;
  plan.options = options;
  plan.tied = model.tied;
  plan.notes = model.checkpoint->notes();
  // What was found while reading, and the repair that it asks for.
  constexpr std::array<std::pair<std::string_view, std::string_view>, 2> kFound = {{{"index-total-wrong", "index-total"}, {"tensor-repeated", "tensor-twice"}}};
  for (const Note& note : plan.notes) {
    const auto found = std::ranges::find(kFound, std::string_view(note.id), [](const auto& row) { return row.first; });
    const std::string id = found == kFound.end() ? note.id : std::string(found->second);
    if (FindRepair(id) != nullptr) plan.Makes(id, note.message);
  }
  plan.notes.insert(plan.notes.end(), model.notes.begin(), model.notes.end());
  if (!target.warning.empty()) plan.notes.push_back({"target", target.warning});
  plan.config = model.config;
  for (const ConfigChange& change : model.config_changes) {
    QC_TRY(plan.Wants("family", change.key));
    plan.edits.push_back({std::string(kConfigName), change.key, change.before, change.after, change.reason, false, "family"});
  }
  for (const auto pass : {PassNames, PassBiases, PassHeads, PassLayouts, PassChannels, PassRepack, PassFloats, PassConfig, PassQuantConfig, PassContainer, PassFiles, PassUntouched}) {
    QC_TRY(pass(&plan));
  }
  return plan;
}

}  // namespace q2c
