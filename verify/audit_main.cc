// qwen2-audit: see --help.
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "formats/base/text.h"
#include "verify/audit_options.h"
#include "verify/audit_report.h"
#include "verify/model_compare.h"
#include "verify/report.h"

namespace {

using q2c::AuditOptions;
using q2c::Checkpoint;
using q2c::Code;
using q2c::Json;
using q2c::Model;
using q2c::Result;
using q2c::Status;

// The only global state: a signal has no other way to reach the work.
volatile std::sig_atomic_t g_signal = 0;
extern "C" void OnSignal(int number) { g_signal = number; }

Status CheckSignal() {
  if (g_signal == 0) return {};
  return q2c::MakeError(g_signal == SIGTERM ? Code::kTerminated : Code::kInterrupted, "interrupted", "interrupted");
}

int Exit(Code code) { return static_cast<int>(code); }

int Fail(const q2c::Error& error, bool json) {
  fmt::print(stderr, "qwen2-audit: error: {}\n", error.Text());
  if (json) {
    const Json document = Json::Object({{"schema", Json::Integer(1)}, {"ok", Json::Bool(false)}, {"exit", Json::Integer(Exit(error.code))},
                                        {"error", Json::Object({{"id", Json::String(error.id)}, {"message", Json::String(error.message)}})}});
    fmt::print("{}\n", document.Dump());
  }
  return Exit(error.code);
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

// Creates the file, or replaces it.
Status WriteReport(const std::string& path, const std::string& text) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  const auto failed = [&] { return q2c::MakeError(Code::kIo, "report", "file '{}' could not be written: {}", q2c::Escape(path), std::strerror(errno)); };  // NOLINT(concurrency-mt-unsafe): as in formats/base/file.cc
  if (file == nullptr) return failed();
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (std::fclose(file) != 0 || !written) return failed();
  return {};
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

Outcome ListFindings(const AuditOptions& options) {
  using Format = AuditOptions::Format;
  if (options.format == Format::kMarkdown) return {q2c::FindingsMarkdown()};
  return {options.format == Format::kJson ? q2c::FindingsTableJson().Dump() + "\n" : q2c::FindingsText()};
}

Result<Outcome> Run(const AuditOptions& options) {
  using Mode = AuditOptions::Mode;
  if (options.mode == Mode::kHelp) return Outcome{q2c::AuditHelp()};
  if (options.mode == Mode::kVersion) return Outcome{"qwen2-audit " Q2C_VERSION "\n"};
  if (options.mode == Mode::kListFindings) return ListFindings(options);
  if (options.mode == Mode::kAudit) return RunAudits(options);
  QC_ASSIGN(const Opened opened, OpenModel(options.in, options));
  switch (options.mode) {
    case Mode::kFingerprint: return PrintFingerprint(opened, options);
    case Mode::kForward: return RunForward(opened, options);
    default: return CompareWith(opened, options);
  }
}

int Main(int argc, char** argv) {
  struct sigaction action {};
  action.sa_handler = OnSignal;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaction(number, &action, nullptr);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);

  const Result<AuditOptions> options = q2c::ParseAuditOptions(argc, argv);
  if (!options.ok()) return Fail(options.error(), false);
  const Result<Outcome> outcome = Run(options.value());
  if (!outcome.ok()) return Fail(outcome.error(), options.value().json);
  // A result that nobody received is no success.
  if (std::fputs(outcome.value().text.c_str(), stdout) < 0 || std::fflush(stdout) != 0) return Fail(q2c::MakeError(Code::kIo, "stdout", "writing to standard output failed"), false);
  return Exit(outcome.value().code);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Main(argc, argv);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "qwen2-audit: error: out of memory [internal]\n");
  } catch (const std::exception& error) {
    fmt::print(stderr, "qwen2-audit: error: unexpected: {}; please report it [internal]\n", q2c::Escape(error.what()));
  }
  return Exit(Code::kInternal);
}
