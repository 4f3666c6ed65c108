// SARIF 2.1.0, as code scanners and their dashboards read it.
#include <algorithm>
#include <set>
#include <span>

#include "formats/base/text.h"
#include "verify/audit_report.h"

namespace q2c {
namespace {

std::string_view Level(Severity severity) { return NameOf(severity); }  // SARIF has the same three words

// A path as the path part of a URI.
std::string UriPath(const std::string& path) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/";
  std::string uri;
  for (const char c : path) {
    if (kPlain.find(c) != std::string_view::npos) uri += c;
    else uri += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return uri;
}

Json Message(std::string_view text) { return Json::Object({{"text", Json::String(text)}}); }

Json Rule(const FindingKind& kind) {
  return Json::Object({{"id", Json::String(kind.id)}, {"shortDescription", Message(kind.meaning)}, {"help", Message(FixText(kind, {"IN", "OUT", "TARGET"}))},
                       {"defaultConfiguration", Json::Object({{"level", Json::String(Level(kind.severity))}})}});
}

Json ResultOf(const Finding& finding, const AuditReport& report) {
  Json location = Json::Object({{"physicalLocation", Json::Object({{"artifactLocation", Json::Object({{"uri", Json::String(UriPath(report.path))}})}})}});
  if (!finding.tensors.empty()) {
    Json logical = Json::Array();
    constexpr size_t kNamed = 50;
    for (const std::string& name : std::span(finding.tensors).first(std::min(kNamed, finding.tensors.size()))) logical.items().push_back(Json::Object({{"fullyQualifiedName", Json::String(Escape(name))}, {"kind", Json::String("data")}}));
    location.Set("logicalLocations", std::move(logical));
  }
  Json locations = Json::Array({std::move(location)});
  const std::string text = fmt::format("{}. What to do: {}", finding.message, FixText(*finding.kind, report.words));
  return Json::Object({{"ruleId", Json::String(finding.kind->id)}, {"level", Json::String(Level(finding.kind->severity))}, {"message", Message(text)}, {"locations", std::move(locations)}});
}

}  // namespace

Json AuditSarif(const std::vector<AuditReport>& reports) {
  std::set<std::string_view> ids;
  Json results = Json::Array();
  for (const AuditReport& report : reports) {
    for (const Finding& finding : report.findings) {
      ids.insert(finding.kind->id);
      results.items().push_back(ResultOf(finding, report));
    }
  }
  Json rules = Json::Array();
  for (const std::string_view id : ids) rules.items().push_back(Rule(*FindKind(id)));
  Json driver = Json::Object({{"name", Json::String("qwen2-audit")}, {"version", Json::String(Q2C_VERSION)}, {"rules", std::move(rules)}});
  Json run = Json::Object({{"tool", Json::Object({{"driver", std::move(driver)}})}, {"results", std::move(results)}});
  return Json::Object({{"$schema", Json::String("https://json.schemastore.org/sarif-2.1.0.json")}, {"version", Json::String("2.1.0")}, {"runs", Json::Array({std::move(run)})}});
}

}  // namespace q2c
