#include "verify/audit_report.h"

#include <algorithm>

#include "formats/base/text.h"

namespace q2c {
namespace {

Json Texts(const std::vector<std::string>& texts) {
  Json list = Json::Array();
  for (const std::string& text : texts) list.items().push_back(Json::String(text));
  return list;
}

// Names come from a hostile file: what JSON cannot hold is escaped.
Json Name(const std::string& name) { return Json::String(IsUtf8(name) ? name : Escape(name)); }
Json Names(const std::vector<std::string>& names) {
  Json list = Json::Array();
  for (const std::string& name : names) list.items().push_back(Name(name));
  return list;
}

Json Real(double value) { return Json::Number(fmt::format("{:.6g}", value)); }

Json FindingJson(const Finding& finding, const FixWords& words) {
  return Json::Object({{"id", Json::String(finding.kind->id)}, {"severity", Json::String(NameOf(finding.kind->severity))}, {"tensors", Names(finding.tensors)}, {"count", Json::Integer(finding.count)},
                       {"message", Json::String(finding.message)}, {"fix", Json::String(FixText(*finding.kind, words))}});
}

Json DataJson(const DataReport& data) {
  Json linears = Json::Array();
  for (const LinearData& linear : data.linears) {
    if (linear.bits == 0) continue;
    Json shares = Json::Array();
    for (const double share : linear.histogram) shares.items().push_back(Real(share));
    Json one = Json::Object({{"name", Name(linear.name)}, {"bits", Json::Integer(uint64_t{linear.bits})}, {"scale_low", Real(linear.scale_low)}, {"scale_high", Real(linear.scale_high)}});
    if (linear.sampled > 0) {
      one.Set("codes_sampled", Json::Integer(linear.sampled));
      one.Set("entropy", Real(linear.entropy));
      one.Set("mean", Real(linear.mean));
      one.Set("histogram", std::move(shares));
    }
    linears.items().push_back(std::move(one));
  }
  return Json::Object({{"bytes", Json::Integer(data.bytes)}, {"tensors", Json::Integer(data.tensors)}, {"linears", std::move(linears)}});
}

Json IntegrityJson(const IntegrityReport& integrity) {
  Json files = Json::Array();
  for (const FileHash& file : integrity.files) {
    files.items().push_back(Json::Object({{"name", Name(file.name)}, {"bytes", Json::Integer(file.bytes)}, {"sha256", Json::String(file.sha256)}, {"xxh3", Json::String(file.xxh3)}}));
  }
  return Json::Object({{"compared_with", Texts(integrity.sources)}, {"compared", Json::Integer(integrity.compared)}, {"bytes", Json::Integer(integrity.bytes)}, {"files", std::move(files)}});
}

}  // namespace

std::string VerdictText(const AuditReport& report) {
  const uint64_t errors = report.Count(Severity::kError);
  const uint64_t warnings = report.Count(Severity::kWarning);
  const uint64_t notes = report.Count(Severity::kNote);
  const auto count = [](uint64_t n, const char* what) { return n == 0 ? std::string() : fmt::format("{} {}{}", n, what, n == 1 ? "" : "s"); };
  std::string text;
  for (const std::string& part : {count(errors, "error"), count(warnings, "warning"), count(notes, "note")}) {
    if (!part.empty()) text += (text.empty() ? "" : ", ") + part;
  }
  if (errors + warnings == 0) return text.empty() ? "clean" : "clean (" + text + ")";
  return text;
}

Json AuditJson(const AuditReport& report) {
  Json findings = Json::Array();
  for (const Finding& finding : report.findings) findings.items().push_back(FindingJson(finding, report.words));
  Json forecast = Json::Array();
  for (const Forecast& each : report.forecast) {
    forecast.items().push_back(Json::Object({{"loader", Json::String(each.loader)}, {"verdict", Json::String(each.verdict)}, {"reason", Json::String(each.reason)},
                                             {"target", Json::String(each.target)}, {"verified_with", Texts(each.verified_with)}}));
  }
  Json maker = Json::Object({{"name", Json::String(report.maker.name)}, {"versions", Json::String(report.maker.versions)}, {"resaved", Json::Bool(report.maker.resaved)}, {"evidence", Texts(report.maker.evidence)}});
  Json model = Json::Object({{"class", Json::String(Escape(report.class_name))}, {"quantisation", Json::String(report.quantisation)}, {"zero_points", Json::String(report.zero_evidence)}});
  Json read = Json::Object({{"weight_files", Json::Integer(report.files)}, {"tensors", Json::Integer(report.tensors)}, {"tensor_bytes", Json::Integer(report.bytes)}, {"data", Json::Bool(report.data.has_value())}});
  Json document = Json::Object({{"schema", Json::Integer(1)}, {"tool", Json::Object({{"name", Json::String("qwen2-audit")}, {"version", Json::String(Q2C_VERSION)}})},
                                {"subject", Name(report.path)}, {"target", Json::String(report.target)}, {"verdict", Json::String(VerdictText(report))},
                                {"findings", std::move(findings)}, {"forecast", std::move(forecast)}, {"made_by", std::move(maker)}, {"model", std::move(model)}, {"read", std::move(read)}, {"facts", report.facts}});
  if (report.data.has_value()) document.Set("data", DataJson(*report.data));
  if (report.integrity.has_value()) document.Set("integrity", IntegrityJson(*report.integrity));
  return document;
}

Json AuditJson(const std::vector<AuditReport>& reports) {
  if (reports.size() == 1) return AuditJson(reports.front());
  Json subjects = Json::Array();
  for (const AuditReport& report : reports) subjects.items().push_back(AuditJson(report));
  return Json::Object({{"schema", Json::Integer(1)}, {"subjects", std::move(subjects)}});
}

std::string AuditText(const AuditReport& report) {
  std::string out = fmt::format("{}: {}\n", Escape(report.path), VerdictText(report));
  if (!report.class_name.empty()) out += fmt::format("model: {}, {}\n", Escape(report.class_name), report.quantisation.empty() ? "float" : report.quantisation);
  out += fmt::format("read: {} weight files, {} tensors, {}; {}\n", report.files, report.tensors, HumanBytes(report.bytes), report.data.has_value() ? "every byte" : "headers, configs and small tensors (--read-data reads every byte)");
  out += fmt::format("made by: {}{}{}{}\n", report.maker.name, report.maker.versions.empty() ? "" : " ", report.maker.versions, report.maker.resaved ? ", then loaded and saved again by transformers" : "");
  for (const std::string& evidence : report.maker.evidence) out += fmt::format("  {}\n", evidence);
  if (!report.findings.empty()) out += '\n';
  for (const Finding& finding : report.findings) {
    out += fmt::format("{}: {} [{}]\n  fix: {}\n", NameOf(finding.kind->severity), finding.message, finding.kind->id, FixText(*finding.kind, report.words));
  }
  out += "\nwho can load it:\n";
  for (const Forecast& each : report.forecast) out += fmt::format("  {:<12} {:<8} {}\n", each.loader, each.verdict, each.reason);
  if (report.integrity.has_value() && !report.integrity->sources.empty()) {
    out += fmt::format("\ncompared with {}: {} files, {}\n", Join(report.integrity->sources, ", "), report.integrity->compared, HumanBytes(report.integrity->bytes));
  } else if (report.data.has_value()) {
    out += "\nnothing was compared with checksums: what is wrong with the bytes shows only where it shows in the numbers\n";
  }
  if (report.nothing_to_compare) out += "\nthere is no SHA256SUMS, manifest, Hub cache name, download record or model.sig to compare with: no proof is possible\n";
  return out;
}

}  // namespace q2c
