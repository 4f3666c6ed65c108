#include "verify/audit.h"

#include <algorithm>
#include <map>
#include <memory>

#include "formats/base/text.h"
#include "formats/manifest.h"
#include "formats/target.h"
#include "formats/weight_files.h"
#include "verify/audit_facts.h"

namespace q2c {
namespace {

// What is read, and kept while the checks run.
struct Subject {
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Model> model;  // `input` points to it
  CheckInput input;
  std::string unreadable;  // why a file of weights or a config could not be read
};

bool IsWeightFile(const std::string& path) { return !path.starts_with("hf://") && (path.ends_with(".safetensors") || path.ends_with(".gguf") || IsTorchFile(path)) && !Dir::Open(path).ok(); }

// A broken file hides what is in it; a shard that is missing or an index that lies does not.
void NoteUnreadable(const Defects& defects, Subject* subject) {
  for (const Error& defect : defects) {
    const FindingKind* kind = FindKind(defect.id);
    const bool broken = kind == nullptr || kind->code == Code::kMalformed || kind->code == Code::kIo || kind->code == Code::kPermission;
    if (broken && kind != FindKind("file-name") && subject->unreadable.empty()) subject->unreadable = defect.message;
  }
}

Status Understand(std::optional<ZeroConvention> zeros, bool generic, Subject* subject, Defects* defects) {
  Defects found;
  Result<Model> model = UnderstandModel(*subject->checkpoint, {{}, zeros, false, &found, generic});
  // What this toolchain wrote it also labelled: its word counts where the data do not show it.
  const auto undecided = std::ranges::find(found, "zeros-undecided", &Error::id);
  if (model.ok() && undecided != found.end() && subject->input.HasEntry(kManifestName) && model.value().quant.has_value()) {
    return Understand(model.value().quant->checkpoint_format == "gptq_v2" ? ZeroConvention::kV2 : ZeroConvention::kV1, generic, subject, defects);
  }
  defects->insert(defects->end(), std::make_move_iterator(found.begin()), std::make_move_iterator(found.end()));
  if (!model.ok()) return KeepOrFail(defects, std::move(model).TakeError());
  subject->model = std::make_unique<Model>(std::move(model).value());
  return {};
}

Result<Subject> Read(const std::string& path, const AuditRequest& request, Findings* findings) {
  Subject subject;
  subject.input.single_file = IsWeightFile(path);
  Defects defects;
  Result<Checkpoint> opened = subject.input.single_file ? Checkpoint::OpenFile(path, request.links, &defects) : Checkpoint::Open(path, request.links, &defects);
  if (!opened.ok()) return std::move(opened).TakeError();
  subject.checkpoint = std::make_unique<Checkpoint>(std::move(opened).value());
  subject.input.checkpoint = subject.checkpoint.get();
  NoteUnreadable(defects, &subject);
  if (subject.input.single_file) {
    const bool absent = !defects.empty() && defects.front().id == "file-missing";
    if (absent) return Usage("path", "there is no file or folder '{}'", Escape(path));
    for (const WeightFile& file : subject.checkpoint->files()) subject.input.entries.push_back({file.name, FileKind::kRegular});
  } else {
    QC_ASSIGN(subject.input.entries, subject.checkpoint->location().dir().List());
  }
  const bool has_config = subject.checkpoint->config().has_value();
  const bool config_broken = subject.input.HasEntry(kConfigName) && !has_config;  // said already
  if (!subject.checkpoint->files().empty() && (!subject.input.single_file || has_config) && !config_broken) {
    QC_TRY(Understand(request.zeros, request.generic, &subject, &defects));
  }
  for (const Error& defect : defects) findings->Add(defect);
  subject.input.model = subject.model.get();
  return subject;
}

// The target that repairs are advised for.
std::string ChooseTarget(const Subject& subject, const AuditRequest& request) {
  if (!request.target.empty()) return request.target;
  if (const std::optional<std::string> text = subject.input.ReadText(std::string(kManifestName), 64'000'000)) {
    const Result<Manifest> manifest = ReadManifest(*text);
    if (manifest.ok() && !manifest.value().targets.empty() && FindTarget(manifest.value().targets.front()).ok()) return manifest.value().targets.front();
  }
  if (subject.input.model == nullptr) return "transformers-4.x";
  const Model& model = *subject.input.model;
  bool zero_0 = false;
  std::string method;
  for (const auto& [name, linear] : model.linears) {
    if (!linear.quantised()) continue;
    method = linear.layout->method;
    zero_0 = zero_0 || linear.traits.has_zero_0;
  }
  if (method == "gptq" || method.empty()) return zero_0 || model.architecture.model_type == "qwen3" ? "transformers-5.x" : "transformers-4.x";
  return method == "marlin" ? "transformers-5.x" : method;
}

// Where the target's loaders build a bias on every quantised linear, the extra ones are wanted.
void JudgeForTarget(const Subject& subject, const Target& target, std::vector<Finding>* findings) {
  if (target.biases != BiasPolicy::kEveryQuantised || subject.input.model == nullptr) return;
  std::erase_if(*findings, [](const Finding& finding) { return finding.kind->id == "extra-zero-bias"; });
  std::vector<std::string> absent;
  for (const auto& [name, linear] : subject.input.model->linears) {
    if (linear.quantised() && linear.expected.in_block && !linear.Part("bias").has_value() && !linear.expected.bias) absent.push_back(name + ".bias");
  }
  if (absent.empty()) return;
  Findings more;
  const uint64_t count = absent.size();
  more.Add("zero-bias-absent", fmt::format("{} biases that {} builds are not there, such as '{}'", count, target.versions, Escape(absent.front())), absent, count);
  findings->push_back(more.all().front());
}

// "model.layers.3.…" -> "layer 3"; the rest by what it is.
std::string PartOf(const std::string& name) {
  for (const std::string_view prefix : {"model.layers.", "transformer.h.", "blk."}) {
    const size_t at = name.find(prefix);
    if (at == std::string::npos) continue;
    const size_t begin = at + prefix.size();
    const size_t end = name.find('.', begin);
    if (end != std::string::npos) return "layer " + name.substr(begin, end - begin);
  }
  if (name.find("embed") != std::string::npos || name.find("wte") != std::string::npos || name.starts_with("token_embd")) return "embedding";
  if (name.starts_with("lm_head") || name.starts_with("output.")) return "head";
  return "other";
}

void Measure(const Subject& subject, AuditReport* report) {
  std::map<std::string, PartSize> parts;
  std::map<std::string, PartSize> dtypes;
  for (const TensorInfo& tensor : subject.checkpoint->tensors()) {
    ++report->tensors;
    report->bytes += tensor.bytes;
    for (const auto& [sizes, key] : {std::pair(&parts, PartOf(tensor.name)), std::pair(&dtypes, std::string(NameOf(tensor.dtype)))}) {
      PartSize& size = (*sizes)[key];
      size.name = key;
      ++size.tensors;
      size.bytes += tensor.bytes;
    }
  }
  for (auto& [key, size] : parts) report->parts.push_back(std::move(size));
  // Layers by number.
  std::ranges::stable_sort(report->parts, {}, [](const PartSize& part) { return std::pair(part.name.starts_with("layer ") ? part.name.size() : 0, part.name); });
  for (auto& [key, size] : dtypes) report->dtypes.push_back(std::move(size));
  report->files = subject.checkpoint->files().size();
}

void Summarise(const Model& model, AuditReport* report) {
  report->class_name = model.class_name + (model.architecture.IsGeneric() ? " (not known: taken as it is)" : "");
  report->zero_evidence = model.zero_verdict.evidence;
  std::map<std::string, uint64_t> kinds;
  for (const auto& [name, linear] : model.linears) {
    if (!linear.quantised()) continue;
    const QuantShape& shape = linear.traits.shape;
    ++kinds[fmt::format("{} {} bits, {}, {}", linear.layout->name, shape.bits, shape.groups == 1 ? "one group" : fmt::format("groups of {}", shape.group_size), linear.traits.symmetric ? "symmetric" : "asymmetric")];
    LinearSummary summary{name, std::string(linear.layout->name), shape.in_features, shape.out_features, shape.group_size, shape.bits, 0, linear.zeros.mean, linear.zeros.codes > 0};
    for (const auto& [suffix, index] : linear.parts) summary.bytes += model.info(index).bytes;
    report->linears.push_back(std::move(summary));
  }
  for (const auto& [kind, count] : kinds) report->quantisation += fmt::format("{}{} linears {}", report->quantisation.empty() ? "" : "; ", count, kind);
}

// What speaks against a model of an unknown type is known; that nothing does is not enough.
void DoubtForecast(const Model& model, std::vector<Forecast>* forecasts) {
  for (Forecast& forecast : *forecasts) {
    if (forecast.verdict != "clean" && forecast.verdict != "reports") continue;
    forecast.verdict = "unknown";
    forecast.reason = fmt::format("model type '{}' is not known to this program; nothing else speaks against it", Escape(model.architecture.model_type));
  }
}

}  // namespace

uint64_t AuditReport::Count(Severity severity) const {
  return static_cast<uint64_t>(std::ranges::count_if(findings, [&](const Finding& finding) { return finding.kind->severity == severity; }));
}

Result<AuditReport> RunAudit(const std::string& path, const AuditRequest& request) {
  AuditReport report;
  report.path = path;
  Findings findings;
  if (!request.target.empty()) {
    QC_TRY(FindTarget(request.target));
  }
  QC_ASSIGN(const Subject subject, Read(path, request, &findings));
  const CheckInput& input = subject.input;
  CheckContainer(input, &findings);
  CheckConfig(input, &findings);
  CheckQuantConfig(input, &findings);
  CheckTokenizer(input, &findings);
  CheckSecurity(input, &findings);
  QC_TRY(CheckArchitecture(input, &findings));
  QC_TRY(CheckQuantisation(input, &findings));
  if (request.check_stop) QC_TRY(request.check_stop());
  if (request.read_data) {
    QC_ASSIGN(report.data, CheckData(input, {request.jobs, request.check_stop}, &findings));
  }
  if (request.read_data || request.check_manifest) {
    QC_ASSIGN(report.integrity, CheckIntegrity(input, {request.check_manifest, request.jobs, request.check_stop}, &findings));
    report.nothing_to_compare = request.check_manifest && report.integrity->sources.empty();
  }
  QC_TRY(subject.checkpoint->CheckUnchanged());

  report.maker = FindMaker(input);
  report.facts = FactsOf(input, findings, report.maker, subject.unreadable);
  QC_ASSIGN(report.forecast, ForecastAll(report.facts));
  const bool generic = input.model != nullptr && input.model->architecture.IsGeneric();
  if (generic) DoubtForecast(*input.model, &report.forecast);
  report.target = ChooseTarget(subject, request);
  QC_ASSIGN(const Target target, FindTarget(report.target));
  report.findings = findings.Sorted();
  JudgeForTarget(subject, target, &report.findings);
  const std::string plain = path.size() > 1 && path.ends_with('/') ? path.substr(0, path.size() - 1) : path;
  const std::string out = path.starts_with("hf://") ? BaseName(plain) + "-" + report.target : plain + "-" + report.target;
  report.words = {ShellWord(plain), ShellWord(out), report.target + (generic ? " --arch=generic" : "")};
  Measure(subject, &report);
  if (input.model != nullptr) Summarise(*input.model, &report);
  return report;
}

}  // namespace q2c
