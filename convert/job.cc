#include "convert/job.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <memory>
#include <set>

#include "convert/archive.h"
#include "convert/card.h"
#include "convert/execute.h"
#include "convert/provenance.h"
#include "convert/undo.h"
#include "formats/base/hash.h"
#include "formats/base/text.h"
#include "formats/base/timings.h"
#include "formats/model_signature.h"
#include "verify/compare.h"

namespace q2c {
namespace {

// Room for manifest, sums and the file system's own needs beside what is planned.
constexpr uint64_t kReserve = 1'000'000;

Manifest BeginManifest(const Plan& plan, const JobOptions& options, bool in_place) {
  Manifest manifest;
  manifest.tool_version = Q2C_VERSION;
  manifest.targets = options.targets;
  Json drop = Json::Array();
  for (const std::string& glob : options.drop) drop.items().push_back(Json::String(glob));
  manifest.options = Json::Object({{"drop", std::move(drop)}});
  if (options.shard_bytes.has_value()) manifest.options.Set("shard_size", Json::Integer(*options.shard_bytes));
  if (options.group_size.has_value()) manifest.options.Set("group_size", Json::Integer(*options.group_size));
  if (options.pad_intermediate.has_value()) manifest.options.Set("pad_intermediate", Json::Integer(*options.pad_intermediate));
  if (options.zeros.has_value()) manifest.options.Set("zeros", Json::String(*options.zeros == ZeroConvention::kV1 ? "v1" : "v2"));
  if (options.layout.has_value()) manifest.options.Set("layout", Json::String(*options.layout));
  for (const auto& [key, ids] : {std::pair("only", &options.only), std::pair("skip", &options.skip)}) {
    if (ids->empty()) continue;
    Json list = Json::Array();
    for (const std::string& id : *ids) list.items().push_back(Json::String(id));
    manifest.options.Set(key, std::move(list));
  }
  if (plan.model->architecture.IsGeneric()) manifest.options.Set("arch", Json::String("generic"));
  if (options.text_only) manifest.options.Set("text_only", Json::Bool(true));
  if (options.allow_rounding) manifest.options.Set("allow_rounding", Json::Bool(true));
  if (options.undo) manifest.options.Set("undo", Json::Bool(true));
  manifest.verify = NameOf(options.verify);
  manifest.verify_read = options.verify == VerifyLevel::kNone ? "none" : options.verify_read == ReadFrom::kDevice ? "device" : "cache";
  manifest.publish = in_place ? "in-place" : "atomic-rename";
  manifest.config_edits = EditsJson(plan.edits);
  return manifest;
}

// Every tensor of the input that the tensor is made from.
std::vector<std::string> SourcesOf(const Model& model, const PlannedTensor& tensor) {
  if (!tensor.HasSource()) return {};
  if (tensor.source != PlannedTensor::Source::kEncode) return {model.info(tensor.input).name};
  std::vector<std::string> names;
  const Linear& linear = *tensor.linear->linear;
  for (const PartCodec& part : linear.layout->parts) {
    const bool carries = (part.components & tensor.part->components & ~kFromScales) != 0;
    if (carries && linear.Part(part.suffix).has_value()) names.push_back(model.info(*linear.Part(part.suffix)).name);
  }
  return names;
}

void DescribeTensors(const Plan& plan, const Written& written, Manifest* manifest) {
  const Model& model = *plan.model;
  for (const auto& [name, linear] : plan.linears) {
    const QuantShape& from = linear.linear->traits.shape;
    const TensorInfo& first = model.info(linear.linear->parts.at(std::string(linear.linear->layout->parts.front().suffix)));
    // How many bits a code has in the output: those of blocks are fixed, dense weights have none.
    const uint64_t bits = linear.layout->method.empty() ? 0 : linear.layout->same_codes ? linear.shape.bits : linear.layout->bits.back();
    manifest->linears.push_back({linear.name, SplitPart(first.name).first, std::string(linear.linear->layout->name), std::string(linear.layout->name), from.in_features, from.out_features,
                                 from.group_size, linear.shape.group_size, from.bits, bits, std::string(NameOf(linear.exactness)), {linear.linear->rows.first, linear.linear->rows.of}});
    ManifestLinear& claim = manifest->linears.back();
    claim.padded_in_features = linear.shape.in_features;
    claim.padded_out_features = linear.shape.out_features;
    if (linear.order == nullptr) continue;
    const Linear& by = *plan.linears.at(linear.order_of).linear;
    claim.order_of = SplitPart(model.info(by.parts.at(std::string(by.layout->parts.front().suffix))).name).first;
    claim.orders_inputs = linear.orders_inputs;
  }
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const PlannedTensor& tensor = plan.tensors[i];
    manifest->tensors.push_back({tensor.name, tensor.dtype, tensor.shape, plan.files[tensor.file].name, written.tensor_digests[i], SourcesOf(model, tensor), tensor.action, std::string(NameOf(tensor.exactness)), {tensor.rows.first, tensor.rows.of}});
  }
  for (const DroppedTensor& drop : plan.dropped) {
    if (drop.action == "implied") continue;  // part of a linear, which is compared as a whole
    manifest->dropped.push_back({model.info(drop.input).name, drop.action, drop.same_as.has_value() ? model.info(*drop.same_as).name : ""});
  }
  std::ranges::sort(manifest->dropped, {}, &ManifestDrop::name);
}

// The line of sha256sum: a name with a backslash or a newline is escaped and marked.
std::string SumLine(const ManifestFile& file) {
  std::string name;
  for (const char c : file.name) {
    if (c == '\\') name += "\\\\";
    else if (c == '\n') name += "\\n";
    else name += c;
  }
  return fmt::format("{}{}  {}\n", name == file.name ? "" : "\\", file.sha256, name);
}

Status WriteSmall(const Dir& dir, std::string_view name, ByteView content, Written* written) {
  QC_ASSIGN(OutputFile file, OutputFile::Create(dir, std::string(name)));
  QC_TRY(file.WriteAt(0, content));
  written->unsynced.push_back(std::move(file));
  written->files.push_back({std::string(name), content.size(), Sha256::Of(content), Xxh3::Of(content), 0});
  return {};
}

// The record that restores the input, made from all that is written so far.
Status WriteUndo(const Plan& plan, const JobOptions& options, const Dir& dir, Progress* progress, Written* written) {
  QC_ASSIGN(const UndoRecord record, BuildUndo(plan, written->files, dir, {options.jobs, options.stop, progress}));
  QC_ASSIGN(const std::vector<std::byte> packed, PackUndo(record));
  const uint64_t budget = UndoBudget(plan.OutputBytes());
  if (packed.size() > budget) {
    return Refused("undo-size", "the undo record has {}, more than {}, which is 1 % of the model: too much of the input is not in the output; convert without --undo and keep the input", HumanBytes(packed.size()), HumanBytes(budget));
  }
  return WriteSmall(dir, kUndoName, packed, written);
}

// Manifest and sums come last: the manifest says what the proof has found the weights to be.
Status WriteAccounts(const Dir& dir, const Plan& plan, const JobOptions& options, const JobReport& report, const std::optional<EcKey>& key, Manifest* manifest, Written* written) {
  if (report.fingerprint.has_value()) {
    manifest->fingerprint = {report.fingerprint->values, report.fingerprint->qlf1};
    std::map<std::string, ManifestDigests> digests;
    for (const auto& [canonical, linear] : plan.linears) {
      const TensorFingerprint* found = report.fingerprint->Find(canonical);
      if (found != nullptr) digests[linear.name] = {found->values, found->qlf1};
    }
    for (ManifestLinear& linear : manifest->linears) linear.fingerprint = digests[linear.name];
  }
  const std::string text = WriteManifest(*manifest);
  QC_TRY(WriteSmall(dir, kManifestName, AsBytes(text), written));
  if (options.card) {
    QC_TRY(WriteSmall(dir, kConversionName, AsBytes(ConversionText(plan, options.targets, report.verified, manifest->fingerprint.values)), written));
    QC_ASSIGN(const std::string card, CardText(plan));
    QC_TRY(WriteSmall(dir, kCardName, AsBytes(card), written));
  }
  if (options.provenance) {
    QC_ASSIGN(const std::string provenance, WriteProvenance(plan, *manifest, written->files, options.jobs));
    QC_TRY(WriteSmall(dir, kProvenanceName, AsBytes(provenance), written));
  }
  std::vector<ManifestFile> files = written->files;
  std::ranges::sort(files, {}, &ManifestFile::name);
  std::string sums;
  for (const ManifestFile& file : files) sums += SumLine(file);
  QC_TRY(WriteSmall(dir, kSumsName, AsBytes(sums), written));
  if (!key.has_value()) return {};
  std::vector<SignedFile> all;
  for (const ManifestFile& file : written->files) all.push_back({file.name, file.sha256});
  QC_ASSIGN(const std::string signature, WriteModelSignature(BaseName(AbsolutePath(options.out)), std::move(all), *key));
  return WriteSmall(dir, kSignatureName, AsBytes(signature), written);
}

// The files from this one on, as something to hold the folder against.
Manifest FilesFrom(const Written& written, size_t first) {
  Manifest manifest;
  manifest.files.assign(written.files.begin() + static_cast<std::ptrdiff_t>(first), written.files.end());
  return manifest;
}

Status SyncAll(const Written& written) {
  for (const OutputFile& file : written.unsynced) QC_TRY(file.Sync());
  return {};
}

// A finding goes into the report; another error ends the run.
Status Keep(Status status, JobReport* report) {
  if (status.ok() || status.error().code != Code::kFindings) return status;
  report->findings.push_back(std::move(status).TakeError());
  return {};
}

// Of shards that are what they were.
uint64_t UntouchedBytes(const Plan& plan) {
  uint64_t bytes = 0;
  for (const PlannedFile& file : plan.files) bytes += file.same_as.has_value() ? file.bytes : 0;
  return bytes;
}

// Before anything is written: OUT and the archive may share a file system.
Status CheckRoom(const Plan& plan, const JobOptions& options, const Staging& staging, const std::optional<Staging>& archive) {
  const uint64_t linked = options.untouched == Untouched::kHardlink ? UntouchedBytes(plan) : 0;
  const uint64_t out_bytes = plan.OutputBytes() - linked + kReserve + (options.undo ? UndoBudget(plan.OutputBytes()) : 0);
  const auto check = [](const Dir& dir, const std::string& place, uint64_t needed) -> Status {
    QC_ASSIGN(const uint64_t room, FreeBytes(dir));
    if (room >= needed) return {};
    return MakeError(Code::kNoSpace, "no-space", "output '{}' needs {}, but only {} are free there", Escape(place), HumanBytes(needed), HumanBytes(room));
  };
  if (!archive.has_value()) return check(staging.dir(), options.out, out_bytes);
  QC_ASSIGN(const FileStamp here, staging.dir().Stat());
  QC_ASSIGN(const FileStamp there, archive->dir().Stat());
  const uint64_t archive_bytes = ArchiveBudget(out_bytes + linked, plan.files.size() + plan.texts.size() + plan.SideFiles().size() + 8);
  if (here.device == there.device) return check(staging.dir(), options.out + "' with '" + options.archive, out_bytes + archive_bytes);
  QC_TRY(check(staging.dir(), options.out, out_bytes));
  return check(archive->dir(), options.archive, archive_bytes);
}

// Read back like the rest, so that nobody unpacks what was not meant.
Status PackArchive(const Plan& plan, const JobOptions& options, const Dir& dir, const Staging& archive, JobReport* report) {
  ArchiveOptions packing{BaseName(AbsolutePath(options.out)), {}, [&] { return CheckStop(options.stop); }};
  for (const PlannedFile& file : plan.files) packing.weights.insert(file.name);
  QC_ASSIGN(report->archive, WriteArchive(dir, archive.dir(), archive.name(), packing));
  if (options.verify == VerifyLevel::kNone) return {};
  Manifest manifest;
  manifest.files = {*report->archive};
  return Keep(VerifyHashes(archive.dir(), manifest, {options.jobs, options.verify_read, packing.check_stop, {}}), report);
}

std::string Sentence(const PlannedJob& planned, const Manifest& manifest, const JobReport& report) {
  std::string text = fmt::format("{} files read back, every byte as it was meant", manifest.files.size());
  if (!report.compared.has_value()) return text;
  const Compared& compared = *report.compared;
  text += fmt::format("; {} weights of {} linears decoded from both sides and {}, {} other tensors {}", compared.weights, compared.linears, compared.rounded_weights > 0 ? "equal or rounded to the nearest" : "equal",
                      compared.tensors, planned.plan.Worst() < Exactness::kSameValues ? "equal byte for byte" : "equal or as planned");
  if (compared.reordered > 0) text += fmt::format(", {} linears up to a permutation of the channels between gate/up and down", compared.reordered);
  if (compared.padded > 0) text += fmt::format(", channels of zeros added to {} linears", compared.padded);
  if (!report.forward.has_value()) return text;
  const ForwardReport& forward = *report.forward;
  return text + fmt::format("; forward pass of both over {} tokens {}", forward.tokens.size(), forward.equal ? "equal bit by bit" : forward.reordered ? "equal up to the order of summation" : "compared");
}

Status Verify(const PlannedJob& planned, const JobOptions& options, const Dir& dir, const Manifest& manifest, Progress* progress, JobReport* report) {
  if (options.verify == VerifyLevel::kNone) {
    report->verified = "not verified (--verify=none)";
    return {};
  }
  const Timed timed(Stage::kVerify);
  const auto check_stop = [&] { return CheckStop(options.stop); };
  const auto count = [&](uint64_t bytes) { progress->Add(bytes); };
  progress->Begin("reading back", planned.plan.OutputBytes());
  QC_TRY(Keep(VerifyHashes(dir, manifest, {options.jobs, options.verify_read, check_stop, count}), report));
  if (options.verify > VerifyLevel::kHash) {
    progress->Begin("comparing", planned.plan.OutputBytes());
    QC_ASSIGN(const Checkpoint output, Checkpoint::Open(dir.path(), Links::kRefuse));
    ProofOptions proving;
    proving.forward = options.verify == VerifyLevel::kForward && planned.forward_not_run.empty();
    proving.tokens = options.tokens;
    proving.spread = options.spread_tokens;
    proving.contested = planned.model->zero_label_wrong || options.zeros.has_value();
    proving.run = {options.jobs, check_stop, count};
    QC_ASSIGN(Proof proof, Prove(*planned.model, output, manifest, proving));
    report->compared = proof.compared;
    report->forward = std::move(proof.forward);
    report->fingerprint = std::move(proof.fingerprint);
    std::ranges::move(proof.findings, std::back_inserter(report->findings));
  }
  report->verified = report->findings.empty() ? Sentence(planned, manifest, *report) : "failed";
  return {};
}

#ifdef Q2C_TEST_DAMAGE
// Flips one bit of a tensor that was written, so that tests see verification catch it.
Status Damage(const Dir& dir, const std::string& what) {
  const size_t colon = what.rfind(':');
  QC_ASSIGN(const Checkpoint output, Checkpoint::Open(dir.path(), Links::kRefuse));
  const TensorInfo* tensor = output.Find(what.substr(0, colon));
  const std::optional<uint64_t> bit = colon == std::string::npos ? std::nullopt : Json::Number(what.substr(colon + 1)).AsU64();
  if (tensor == nullptr || !bit.has_value() || *bit / 8 >= tensor->bytes) return Usage("usage", "--test-damage={}: expected TENSOR:BIT of the output", Escape(what));
  std::fstream file(JoinPath(dir.path(), output.files()[tensor->file].name), std::ios::in | std::ios::out | std::ios::binary);
  const auto at = static_cast<std::streamoff>(tensor->offset + *bit / 8);
  const int byte = file.seekg(at).get();
  file.seekp(at).put(static_cast<char>(byte ^ (1 << (*bit % 8))));
  return file.good() ? Status() : MakeError(Code::kIo, "io", "--test-damage could not write");
}
#endif

}  // namespace

std::string_view NameOf(VerifyLevel level) {
  switch (level) {
    case VerifyLevel::kNone: return "none";
    case VerifyLevel::kHash: return "hash";
    case VerifyLevel::kExact: return "exact";
    case VerifyLevel::kForward: return "forward";
  }
  return "none";
}

Result<PlannedJob> PlanJob(const JobOptions& options) {
  std::vector<Target> targets;
  for (const std::string& name : options.targets) {
    QC_ASSIGN(Target target, FindTarget(name));
    targets.push_back(std::move(target));
  }
  QC_ASSIGN(Target target, CombineTargets(targets));
  if (options.layout.has_value()) {
    QC_ASSIGN(target, WithLayout(std::move(target), *options.layout));
  }
  QC_ASSIGN(RepairChoice repairs, RepairChoice::Make(options.only, options.skip));
  PlannedJob job;
  QC_ASSIGN(Checkpoint checkpoint, Checkpoint::Open(options.in, options.links));
  job.checkpoint = std::make_unique<Checkpoint>(std::move(checkpoint));
  QC_ASSIGN(Model model, UnderstandModel(*job.checkpoint, {options.drop, options.zeros, options.text_only, nullptr, options.generic, options.jobs}));
  job.model = std::make_unique<Model>(std::move(model));
  QC_ASSIGN(job.plan, MakePlan(*job.model, target, {options.shard_bytes, options.allow_rounding, std::move(repairs), options.group_size, options.pad_intermediate, options.jobs}));
  for (const std::string& glob : options.drop) {
    const bool hits = std::ranges::any_of(job.model->dropped, [&](const auto& drop) { return drop.second == glob; });
    if (!hits) job.plan.notes.push_back({"drop-nothing", fmt::format("--drop={} leaves nothing out: no tensor matches, or another --drop comes first", Escape(glob))});
  }
  if (options.undo) QC_TRY(CheckUndo(job.plan));
  QC_TRY(NoteReadme(&job.plan));
  if (const uint64_t same = UntouchedBytes(job.plan); same > 0 && options.untouched == Untouched::kHardlink) {
    job.plan.notes.push_back({"hardlinks", fmt::format("{} of the output are the very files of the input (--untouched=hardlink): whoever changes one changes both", HumanBytes(same))});
  }
  if (options.verify == VerifyLevel::kForward) {
    const Result<ForwardConfig> forward = ReadForwardConfig(*job.model);
    if (!forward.ok() && (forward.error().code != Code::kNotRun || options.verify_given)) return forward.error();
    if (!forward.ok()) {
      job.forward_not_run = forward.error().message;
      job.plan.notes.push_back({"forward-not-run", fmt::format("no forward pass: {}; the weights are compared one by one", job.forward_not_run)});
    }
  }
  return job;
}

Result<JobReport> RunJob(const PlannedJob& planned, const JobOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const Plan& plan = planned.plan;
  Progress progress(options.progress);
  std::optional<EcKey> key;
  if (!options.sign.empty()) {
    QC_ASSIGN(key, EcKey::LoadPrivate(options.sign, options.passphrase));
  }
  QC_ASSIGN(Staging staging, Staging::Begin(options.out, planned.checkpoint->path(), options.overwrite, options.attempt));
  const Dir& dir = staging.dir();
  std::optional<Staging> archive;
  if (!options.archive.empty()) {
    QC_ASSIGN(Staging begun, Staging::Begin(options.archive, planned.checkpoint->path(), options.overwrite, 0, Product::kFile));
    archive.emplace(std::move(begun));
  }
  QC_TRY(CheckRoom(plan, options, staging, archive));
  progress.Begin("writing", plan.OutputBytes());
  QC_ASSIGN(Written written, Execute(plan, dir, {options.jobs, options.stop, &progress, options.untouched}));
  QC_TRY(planned.checkpoint->CheckUnchanged());

  for (const TextFile& text : plan.texts) QC_TRY(WriteSmall(dir, text.name, AsBytes(text.content), &written));
  if (options.undo) QC_TRY(WriteUndo(plan, options, dir, &progress, &written));
  Manifest manifest = BeginManifest(plan, options, staging.in_place());
  DescribeTensors(plan, written, &manifest);
  std::ranges::sort(written.files, {}, &ManifestFile::name);
  manifest.files = written.files;

#ifdef Q2C_TEST_DAMAGE
  if (!options.test_damage.empty()) QC_TRY(Damage(dir, options.test_damage));
#endif
  // From the device the bytes can be read only after they have reached it; from the cache
  // they are read while the disk is still at work.
  if (options.verify_read == ReadFrom::kDevice) QC_TRY(SyncAll(written));
  JobReport report;
  report.bytes = plan.OutputBytes();
  report.in_place = staging.in_place();
  QC_TRY(Verify(planned, options, dir, manifest, &progress, &report));
  const size_t accounts = written.files.size();
  QC_TRY(WriteAccounts(dir, plan, options, report, key, &manifest, &written));
  if (options.verify > VerifyLevel::kNone) QC_TRY(Keep(VerifyHashes(dir, FilesFrom(written, accounts), {}), &report));
  std::ranges::sort(written.files, {}, &ManifestFile::name);
  report.files = written.files.size();
  report.written = written.files;
  // Before anything is blamed on the conversion.
  QC_TRY(planned.checkpoint->CheckUnchanged());
  if (archive.has_value() && report.findings.empty()) QC_TRY(PackArchive(plan, options, dir, *archive, &report));
  if (report.findings.empty()) {
    QC_TRY(SyncAll(written));
    QC_TRY(planned.checkpoint->CheckUnchanged());
    QC_TRY(CheckStop(options.stop));
    QC_TRY(staging.Commit());
    report.found_equal = staging.found_equal();
    if (archive.has_value()) QC_TRY(archive->Commit());
  } else if (options.keep_failed) {
    report.kept = staging.Keep();
  }
  progress.End();
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace q2c
