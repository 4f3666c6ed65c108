#include "convert/job.h"
#include "formats/base/text.h"
#include "formats/base/timings.h"
#include "verify/report.h"

namespace q2c {
namespace {

Json TimingsJson(const TimeSpent& spent) {
  const auto number = [](double seconds) { return Json::Number(fmt::format("{:.3f}", seconds)); };
  Json timings = Json::Object({{"elapsed", number(spent.elapsed)}, {"processor", number(spent.processor)}, {"limited_by", Json::String(spent.LimitedBy())}});
  for (size_t i = 1; i < spent.seconds.size(); ++i) timings.Set(std::string(kStageNames.at(i)), number(spent.seconds.at(i)));
  return timings;
}

}  // namespace

Json ReportDocument(const PlannedJob& planned, const JobOptions& options, const JobReport& report) {
  Json targets = Json::Array();
  for (const std::string& name : options.targets) targets.items().push_back(Json::String(name));
  Json files = Json::Array();
  for (const ManifestFile& file : report.written) files.items().push_back(Json::Object({{"name", Json::String(file.name)}, {"bytes", Json::Integer(file.bytes)}, {"sha256", Json::String(file.sha256)}}));
  Json verification = Json::Object({{"level", Json::String(NameOf(options.verify))}, {"result", Json::String(report.verified)}, {"findings", FindingsJson(report.findings)}});
  if (report.compared.has_value()) verification.Set("compared", ComparedJson(*report.compared));
  if (report.forward.has_value()) verification.Set("forward", ForwardJson(*report.forward));

  Json document = Json::Object({{"format", Json::String(kReportFormat)},
                                {"version", Json::String(kReportVersion)},
                                {"tool", Json::Object({{"name", Json::String("qwen2-convert")}, {"version", Json::String(Q2C_VERSION)}})},
                                {"ok", Json::Bool(report.findings.empty())},
                                {"input", Json::String(planned.checkpoint->path())},
                                {"output", Json::String(options.out)},
                                {"targets", std::move(targets)},
                                {"exactness", Json::String(NameOf(planned.plan.Worst()))}});
  const Json summary = PlanSummaryJson(planned.plan);
  for (const auto& [key, value] : summary.members()) document.Set(key, value);
  if (report.fingerprint.has_value()) document.Set("fingerprint", Json::Object({{"values", Json::String(report.fingerprint->values)}, {"qlf1", Json::String(report.fingerprint->qlf1)}}));
  document.Set("files", std::move(files));
  if (report.archive.has_value()) document.Set("archive", Json::Object({{"name", Json::String(options.archive)}, {"bytes", Json::Integer(report.archive->bytes)}, {"sha256", Json::String(report.archive->sha256)}}));
  document.Set("verification", std::move(verification));
  document.Set("seconds", Json::Number(fmt::format("{:.3f}", report.seconds)));
  if (options.timings) document.Set("timings", TimingsJson(SpentSoFar()));
  document.Set("peak_memory_bytes", Json::Integer(PeakMemory()));
  return document;
}

std::string ReportText(const JobOptions& options, const JobReport& report) {
  std::string text;
  if (report.findings.empty()) {
    text += fmt::format("'{}': {} files, {} in {:.1f} s, {} of memory\nverified: {}\n", Escape(options.out), report.files, HumanBytes(report.bytes), report.seconds, HumanBytes(PeakMemory()), report.verified);
  }
  if (report.findings.empty() && report.archive.has_value()) text += fmt::format("'{}': the same as one file, {}, SHA-256 {}\n", Escape(options.archive), HumanBytes(report.archive->bytes), report.archive->sha256);
  if (report.compared.has_value()) text += RoundingText(*report.compared);
  if (report.forward.has_value()) text += ForwardText(*report.forward);
  if (report.fingerprint.has_value()) text += fmt::format("fingerprint of what was written: values {}, qlf1 {}\n", report.fingerprint->values, report.fingerprint->qlf1);
  if (report.in_place) text += "note: the output is a mount point, so its files were moved in one by one, config.json last; a crash in that moment leaves a folder without config.json\n";
  if (options.timings) text += SpentSoFar().Text();
  return text;
}

}  // namespace q2c
