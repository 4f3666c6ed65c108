// qwen2-audit: see --help.
#include <csignal>

#include "formats/base/program.h"
#include "formats/base/text.h"
#include "verify/audit_options.h"
#include "verify/audit_report.h"
#include "verify/model_compare.h"
#include "verify/report.h"
#include "verify/signature.h"

namespace {

using q2c::AuditOptions;
using q2c::Checkpoint;
using q2c::Code;
using q2c::Json;
using q2c::Model;
using q2c::Result;
using q2c::Status;

Status CheckSignal() {
  const int signal = q2c::StopSignal();
  if (signal == 0) return {};
  return q2c::MakeError(signal == SIGTERM ? Code::kTerminated : Code::kInterrupted, "interrupted", "interrupted");
}

struct Outcome {
  std::string text;  // for standard output
  Code code = Code::kOk;
};

// A model and what it points into.
struct Opened {
  std::unique_ptr<Checkpoint> checkpoint;
  Model model;
};
Result<Opened> OpenModel(const std::string& path, const AuditOptions& options) {
  QC_ASSIGN(Checkpoint checkpoint, Checkpoint::Open(path, options.links));
  Opened opened{std::make_unique<Checkpoint>(std::move(checkpoint)), {}};
  QC_ASSIGN(opened.model, q2c::UnderstandModel(*opened.checkpoint, {{}, options.zeros, false, nullptr, options.generic}));
  return opened;
}

q2c::ProofOptions Running(const AuditOptions& options) {
  q2c::ProofOptions running;
  running.tokens = options.tokens;
  running.spread = options.spread_tokens;
  running.run = {options.jobs, CheckSignal, nullptr};
  return running;
}

Json Schema() { return Json::Object({{"schema", Json::Integer(1)}}); }

Result<Outcome> PrintFingerprint(const Opened& opened, const AuditOptions& options) {
  QC_ASSIGN(const q2c::Fingerprint fingerprint, q2c::FingerprintOf(opened.model, Running(options).run));
  if (options.json) {
    Json document = Schema();
    document.Set("values", Json::String(fingerprint.values));
    document.Set("qlf1", Json::String(fingerprint.qlf1));
    Json tensors = Json::Array();
    for (const q2c::TensorFingerprint& tensor : fingerprint.tensors) tensors.items().push_back(Json::Object({{"name", Json::String(tensor.name)}, {"values", Json::String(tensor.values)}, {"qlf1", Json::String(tensor.qlf1)}}));
    if (options.per_tensor) document.Set("tensors", std::move(tensors));
    return Outcome{document.Dump() + "\n"};
  }
  std::string text = fmt::format("values {}\nqlf1 {}\n", fingerprint.values, fingerprint.qlf1);
  if (options.per_tensor) {
    text.clear();
    for (const q2c::TensorFingerprint& tensor : fingerprint.tensors) text += fmt::format("values {} qlf1 {} {}\n", tensor.values, tensor.qlf1, q2c::Escape(tensor.name));
  }
  return Outcome{std::move(text)};
}

Result<Outcome> RunForward(const Opened& opened, const AuditOptions& options) {
  Result<q2c::Observation> observed = q2c::Observe(opened.model, Running(options));
  if (!observed.ok()) return std::move(observed).TakeError();
  const q2c::Observation& seen = observed.value();
  if (!options.forward_out.empty()) QC_TRY(q2c::WriteObservation(options.forward_out, seen));
  if (options.json) {
    Json document = Schema();
    document.Set("forward", q2c::ForwardJson(seen.report));
    return Outcome{document.Dump() + "\n"};
  }
  return Outcome{fmt::format("forward pass: {} tokens, {} layers: every number finite\n", seen.report.tokens.size(), seen.states.size() - 1) + q2c::ForwardText(seen.report)};
}

Result<Outcome> CompareWith(const Opened& opened, const AuditOptions& options) {
  QC_ASSIGN(const Opened other, OpenModel(options.against, options));
  QC_ASSIGN(const q2c::ModelComparison comparison, q2c::CompareModels(opened.model, other.model, Running(options)));
  const bool match = options.weights_only ? comparison.WeightsMatch() : comparison.AllMatch();
  Outcome outcome{q2c::ComparisonText(comparison, options.weights_only), match ? Code::kOk : Code::kFindings};
  if (options.json) {
    Json document = Schema();
    document.Set("comparison", q2c::ComparisonJson(comparison));
    outcome.text = document.Dump() + "\n";
  }
  return outcome;
}

Status WriteReport(const std::string& path, const std::string& text) {
  const Status put = q2c::PutFile(path, q2c::AsBytes(text));
  if (put.ok()) return {};
  return q2c::MakeError(Code::kIo, "report", "file '{}' could not be written: {}", q2c::Escape(path), put.error().message);
}

Result<Outcome> RunAudits(const AuditOptions& options) {
  using Format = AuditOptions::Format;
  q2c::AuditRequest request = options.request;
  request.check_stop = CheckSignal;
  std::vector<q2c::AuditReport> reports;
  Outcome outcome;
  for (const std::string& path : options.paths) {
    QC_ASSIGN(q2c::AuditReport report, q2c::RunAudit(path, request));
    const Code code = q2c::ExitCode(report.findings, options.fail_on);
    if (outcome.code == Code::kOk) outcome.code = code;
    if (outcome.code == Code::kOk && report.nothing_to_compare) outcome.code = Code::kNotRun;
    if (options.format == Format::kText) outcome.text += (reports.empty() ? "" : "\n") + q2c::AuditText(report);
    reports.push_back(std::move(report));
  }
  if (options.format == Format::kJson) outcome.text = q2c::AuditJson(reports).Dump() + "\n";
  if (options.format == Format::kSarif) outcome.text = q2c::AuditSarif(reports).Dump() + "\n";
  if (!options.report.empty()) {
    QC_TRY(WriteReport(options.report, options.report.ends_with(".html") ? q2c::AuditHtml(reports) : q2c::AuditJson(reports).Dump() + "\n"));
  }
  return outcome;
}

Result<Outcome> CheckSignature(const AuditOptions& options) {
  QC_ASSIGN(const q2c::SignatureReport report, q2c::VerifyModelSignature(options.in, {options.public_key, options.links, options.jobs, CheckSignal}));
  Outcome outcome;
  Json document = Schema();
  document.Set("key", Json::String(report.key_hint));
  document.Set("files", Json::Integer(report.files));
  document.Set("findings", q2c::FindingsJson(report.findings));
  for (const q2c::Error& finding : report.findings) outcome.text += finding.Text() + "\n";
  if (!report.findings.empty()) {
    outcome.code = Code::kFindings;
  } else if (options.public_key.empty()) {
    outcome.code = Code::kNotRun;
    outcome.text = fmt::format("{} files are as they were signed; who signed them was not checked: name the public key with --verify-signature=PUB.pem [signature-not-checked]\n", report.files);
  } else {
    outcome.text = fmt::format("{} files are as they were signed with key {}\n", report.files, report.key_hint);
  }
  if (options.json) outcome.text = document.Dump() + "\n";
  return outcome;
}

Outcome ListFindings(const AuditOptions& options) {
  using Format = AuditOptions::Format;
  if (options.format == Format::kMarkdown) return {q2c::FindingsMarkdown()};
  return {options.format == Format::kJson ? q2c::FindingsTableJson().Dump() + "\n" : q2c::FindingsText()};
}

Result<Outcome> Run(const AuditOptions& options) {
  using Mode = AuditOptions::Mode;
  if (options.mode == Mode::kHelp) {
    QC_ASSIGN(std::string help, q2c::ManualAs(q2c::AuditManual(), options.help));
    return Outcome{std::move(help)};
  }
  if (options.mode == Mode::kVersion) return Outcome{"qwen2-audit " Q2C_VERSION "\n"};
  if (options.mode == Mode::kListFindings) return ListFindings(options);
  if (options.mode == Mode::kAudit) return RunAudits(options);
  if (options.mode == Mode::kSignature) return CheckSignature(options);
  QC_ASSIGN(const Opened opened, OpenModel(options.in, options));
  switch (options.mode) {
    case Mode::kFingerprint: return PrintFingerprint(opened, options);
    case Mode::kForward: return RunForward(opened, options);
    default: return CompareWith(opened, options);
  }
}

int Main(int argc, char** argv) {
  const Result<AuditOptions> options = q2c::ParseAuditOptions(argc, argv);
  if (!options.ok()) return q2c::ExitWith(options.error());
  const Result<Outcome> outcome = Run(options.value());
  return outcome.ok() ? q2c::Print(outcome.value().text, outcome.value().code) : q2c::ExitWith(outcome.error(), options.value().json);
}

}  // namespace

int main(int argc, char** argv) { return q2c::RunProgram("qwen2-audit", Main, argc, argv); }
