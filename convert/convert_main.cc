// qwen2-convert: see --help.
#include <cstdio>

#include "convert/options.h"
#include "convert/restore.h"
#include "formats/base/program.h"
#include "formats/base/text.h"
#include "verify/report.h"

namespace {

using q2c::CommandLine;
using q2c::Json;

q2c::Result<std::string> ListTargets(bool json) {
  Json list = Json::Array();
  std::string text;
  for (const std::string& name : q2c::TargetNames()) {
    QC_ASSIGN(const q2c::Target target, q2c::FindTarget(name));
    Json verified = Json::Array();
    text += fmt::format("{}\n  {}\n  versions: {}\n", name, target.summary, target.versions);
    for (const std::string& stack : target.verified_with) {
      verified.items().push_back(Json::String(stack));
      text += fmt::format("  verified with: {}\n", stack);
    }
    list.items().push_back(Json::Object({{"name", Json::String(name)}, {"summary", Json::String(target.summary)}, {"versions", Json::String(target.versions)}, {"verified_with", std::move(verified)}}));
  }
  if (json) return Json::Object({{"schema", Json::Integer(1)}, {"targets", std::move(list)}}).Dump() + "\n";
  return text;
}

q2c::Result<std::string> Convert(const CommandLine& line, const q2c::PlannedJob& job) {
  if (!line.quiet) {
    fmt::print(stderr, "{}", q2c::PlanText(job.plan, line.verbose));
    (void)std::fflush(stderr);
  }
  QC_ASSIGN(const q2c::JobReport report, q2c::RunJob(job, line.job));
  if (!line.job.report.empty()) QC_TRY(q2c::WriteReport(line.job.report, q2c::ReportDocument(job, line.job, report)));
  if (!report.findings.empty()) {
    for (const q2c::Error& finding : report.findings) fmt::print(stderr, "qwen2-convert: finding: {}\n", finding.Text());
    if (!line.quiet) fmt::print(stderr, "{}", q2c::ReportText(line.job, report));
    q2c::Error error = report.findings.front();
    error.message += fmt::format("; '{}' was not written{}", q2c::Escape(line.job.out), report.kept.empty() ? "" : fmt::format(", what failed is in '{}'", q2c::Escape(report.kept)));
    return error;
  }
  if (line.json) {
    Json document = q2c::PlanJson(job.plan);
    const Json outcome = q2c::ReportDocument(job, line.job, report);
    document.Set("ok", Json::Bool(true));
    document.Set("output", Json::String(line.job.out));
    document.Set("verification", *outcome.Find("verification"));
    if (const Json* archive = outcome.Find("archive")) document.Set("archive", *archive);
    if (const Json* fingerprint = outcome.Find("fingerprint")) document.Set("fingerprint", *fingerprint);
    return document.Dump() + "\n";
  }
  return line.quiet ? std::string() : q2c::ReportText(line.job, report);
}

q2c::Result<std::string> Restore(const CommandLine& line) {
  const q2c::JobOptions& job = line.job;
  QC_ASSIGN(const q2c::RestoreReport report, q2c::Restore({job.in, job.out, job.links, job.overwrite, job.jobs, job.stop, job.progress}));
  if (line.json) {
    const Json document = Json::Object({{"schema", Json::Integer(1)}, {"ok", Json::Bool(true)}, {"output", Json::String(job.out)}, {"files", Json::Integer(uint64_t{report.files})}, {"bytes", Json::Integer(report.bytes)}});
    return document.Dump() + "\n";
  }
  if (line.quiet) return std::string();
  return fmt::format("'{}': {} files, {} in {:.1f} s\nverified: the SHA-256 of each is that of the input that was converted\n", q2c::Escape(job.out), report.files, q2c::HumanBytes(report.bytes), report.seconds);
}

q2c::Result<std::string> Run(const CommandLine& line) {
  switch (line.mode) {
    case CommandLine::Mode::kHelp: return q2c::ManualAs(q2c::ConvertManual(), line.help);
    case CommandLine::Mode::kVersion: return std::string("qwen2-convert " Q2C_VERSION "\n");
    case CommandLine::Mode::kListTargets: return ListTargets(line.json);
    case CommandLine::Mode::kListRepairs: return line.json ? q2c::RepairsJson().Dump() + "\n" : q2c::RepairsText();
    case CommandLine::Mode::kRestore: return Restore(line);
    default: break;
  }
  QC_ASSIGN(const q2c::PlannedJob job, q2c::PlanJob(line.job));
  if (line.mode == CommandLine::Mode::kExplain) return q2c::ExplainTensor(job.plan, line.explain);
  if (line.mode == CommandLine::Mode::kDryRun) return line.json ? q2c::PlanJson(job.plan).Dump() + "\n" : q2c::PlanText(job.plan, line.verbose);
  return Convert(line, job);
}

int Main(int argc, char** argv) {
  q2c::Result<CommandLine> line = q2c::ParseCommandLine(argc, argv);
  if (!line.ok()) return q2c::ExitWith(line.error());
  line.value().job.stop = &q2c::StopSignal();
  const q2c::Result<std::string> text = Run(line.value());
  return text.ok() ? q2c::Print(text.value(), q2c::Code::kOk) : q2c::ExitWith(text.error(), line.value().json);
}

}  // namespace

int main(int argc, char** argv) { return q2c::RunProgram("qwen2-convert", Main, argc, argv); }
