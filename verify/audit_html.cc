// One HTML file: verdict first, no script, nothing from outside.
#include <algorithm>
#include <map>

#include "formats/base/html.h"
#include "formats/base/text.h"
#include "verify/audit_plots.h"
#include "verify/audit_report.h"

namespace q2c {
namespace {

constexpr std::string_view kStyle = R"css(
:root{--bg:#fff;--fg:#1c2430;--soft:#5b6675;--line:#d7dde5;--card:#f5f7fa;--bar:#2f6fb3;--err:#b3261e;--warn:#8a5a00;--note:#3d5a80;--ok:#1e6b3a}
@media (prefers-color-scheme:dark){:root{--bg:#14181e;--fg:#e4e9f0;--soft:#9aa6b5;--line:#343c48;--card:#1d232c;--bar:#6aa6e6;--err:#ff8a80;--warn:#f0bd5a;--note:#9dbbe0;--ok:#7ad19a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1rem;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.35rem;margin:.2rem 0}h2{font-size:1.1rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--line)}
p{margin:.4rem 0}.soft{color:var(--soft)}
.verdict{padding:.8rem 1rem;border-left:.4rem solid var(--c);background:var(--card);font-size:1.15rem;font-weight:600}
.error{--c:var(--err)}.warning{--c:var(--warn)}.note{--c:var(--note)}.good{--c:var(--ok)}
.f{margin:.6rem 0;padding:.6rem .8rem;border-left:.3rem solid var(--c);background:var(--card);break-inside:avoid}
.f b{color:var(--c)}code{font:.875em/1.4 ui-monospace,monospace}
.fix{display:block;margin-top:.3rem;white-space:pre-wrap}
.table{overflow-x:auto}table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--line)}
th.n,td.n{text-align:right;white-space:nowrap}.w,th{white-space:nowrap}.v{font-weight:600;white-space:nowrap;color:var(--c)}
svg{width:100%;max-width:620px;height:auto;display:block;font:11px system-ui,sans-serif}
svg text{fill:var(--fg)}svg .l{text-anchor:end}.b{fill:var(--bar)}.g{stroke:var(--line)}.r{stroke:var(--bar);stroke-width:2}
@media print{body{max-width:none;padding:0;font-size:11pt}:root{--bg:#fff;--fg:#000;--soft:#444;--line:#999;--card:#fff;--bar:#2f6fb3;--err:#b3261e;--warn:#8a5a00;--note:#3d5a80;--ok:#1e6b3a}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
)css";

std::string_view ClassOf(const AuditReport& report) { return report.Count(Severity::kError) > 0 ? "error" : report.Count(Severity::kWarning) > 0 ? "warning" : "good"; }

std::string_view ClassOfVerdict(std::string_view verdict) { return verdict == "clean" ? "good" : verdict == "reports" ? "warning" : verdict == "unknown" ? "note" : "error"; }

std::string Head(const AuditReport& report) {
  std::string html = fmt::format("<h1>{}</h1>\n<p class=\"verdict {}\">{}</p>\n", HtmlName(report.path), ClassOf(report), HtmlText(VerdictText(report)));
  if (!report.class_name.empty()) html += fmt::format("<p>{}, {}</p>\n", HtmlName(report.class_name), HtmlText(report.quantisation.empty() ? "float" : report.quantisation));
  html += fmt::format("<p>Made by {}{}{}{}.</p>\n", HtmlText(report.maker.name), report.maker.versions.empty() ? "" : " ", HtmlText(report.maker.versions), report.maker.resaved ? ", then loaded and saved again by transformers" : "");
  html += "<p class=\"soft\">";
  for (size_t i = 0; i < report.maker.evidence.size(); ++i) html += (i > 0 ? "; " : "") + HtmlText(report.maker.evidence[i]);
  html += fmt::format("</p>\n<p class=\"soft\">Read: {} weight files, {} tensors, {}; {}.</p>\n", report.files, report.tensors, HumanBytes(report.bytes), report.data.has_value() ? "every byte" : "headers, configs and small tensors");
  if (report.integrity.has_value() && !report.integrity->sources.empty()) html += fmt::format("<p class=\"soft\">Compared with {}: {} files.</p>\n", HtmlText(Join(report.integrity->sources, ", ")), report.integrity->compared);
  else html += "<p class=\"soft\">Nothing was compared with checksums: no proof of the bytes.</p>\n";
  return html;
}

std::string FindingsSection(const AuditReport& report) {
  std::string html = "<h2>Findings</h2>\n";
  if (report.findings.empty()) html += "<p>None.</p>\n";
  for (const Finding& finding : report.findings) {
    html += fmt::format("<div class=\"f {0}\"><b>{0}</b> <code>{1}</code>: {2}", NameOf(finding.kind->severity), finding.kind->id, HtmlText(finding.message));
    if (finding.count > 1 && !finding.tensors.empty()) {
      html += "<br><span class=\"soft\">";
      constexpr size_t kShown = 8;
      const size_t shown = std::min(kShown, finding.tensors.size());
      for (size_t i = 0; i < shown; ++i) html += (i > 0 ? ", " : "") + fmt::format("<code>{}</code>", HtmlName(finding.tensors[i]));
      if (finding.count > shown) html += fmt::format(" and {} more", finding.count - shown);
      html += "</span>";
    }
    html += fmt::format("<code class=\"fix\">{}</code></div>\n", HtmlText(FixText(*finding.kind, report.words)));
  }
  return html;
}

std::string ForecastSection(const AuditReport& report) {
  std::string html = "<h2>Who can load it</h2>\n<div class=\"table\"><table><tr><th>loader</th><th>verdict</th><th>why</th></tr>\n";
  for (const Forecast& each : report.forecast) {
    const std::string verified = each.verified_with.empty() ? "not verified" : Join(each.verified_with, "; ");
    html += fmt::format("<tr><td class=\"w\"><code>{}</code></td><td class=\"v {}\">{}</td><td>{}<br><span class=\"soft\">{}</span></td></tr>\n", each.loader, ClassOfVerdict(each.verdict), each.verdict, HtmlText(each.reason), HtmlText(verified));
  }
  return html + "</table></div>\n";
}

// Linears of one role and layout together: the table does not grow with layers or experts.
std::string LinearsSection(const AuditReport& report) {
  if (report.linears.empty()) return "";
  struct Role {
    uint64_t count = 0;
    uint64_t bytes = 0;
  };
  std::map<std::string, Role> roles;
  for (const LinearSummary& linear : report.linears) {
    std::string name;
    for (size_t i = 0; i < linear.name.size();) {
      const bool digit = linear.name[i] >= '0' && linear.name[i] <= '9';
      if (digit && i > 0 && linear.name[i - 1] == '.') {
        name += '*';
        while (i < linear.name.size() && linear.name[i] >= '0' && linear.name[i] <= '9') ++i;
      } else {
        name += linear.name[i++];
      }
    }
    Role& role = roles[fmt::format("<td><code>{}</code></td><td>{}</td><td>{} × {}</td><td>{} bits, {}</td>", HtmlName(name), HtmlText(linear.layout), linear.in_features, linear.out_features, linear.bits, linear.group_size)];
    ++role.count;
    role.bytes += linear.bytes;
  }
  std::string html = "<h2>Quantised linears</h2>\n<div class=\"table\"><table><tr><th>linear</th><th>layout</th><th>in × out</th><th>bits, group</th><th class=\"n\">count</th><th class=\"n\">bytes</th></tr>\n";
  constexpr size_t kRows = 200;
  size_t rows = 0;
  for (const auto& [cells, role] : roles) {
    if (++rows > kRows) break;
    html += fmt::format("<tr>{}<td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n", cells, role.count, HumanBytes(role.bytes));
  }
  html += "</table></div>\n";
  if (roles.size() > kRows) html += fmt::format("<p class=\"soft\">and {} more kinds</p>\n", roles.size() - kRows);
  return html;
}

std::string DtypesSection(const AuditReport& report) {
  std::string html = "<h2>Tensors</h2>\n<div class=\"table\"><table><tr><th>dtype</th><th class=\"n\">tensors</th><th class=\"n\">bytes</th></tr>\n";
  for (const PartSize& dtype : report.dtypes) html += fmt::format("<tr><td><code>{}</code></td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n", dtype.name, dtype.tensors, HumanBytes(dtype.bytes));
  return html + "</table></div>\n";
}

std::string PlotSection(std::string_view title, std::string_view text, const std::string& plot) {
  if (plot.empty()) return "";
  return fmt::format("<h2>{}</h2>\n<p class=\"soft\">{}</p>\n{}", title, text, plot);
}

}  // namespace

std::string AuditHtml(const std::vector<AuditReport>& reports) {
  std::string html = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>{}</title>\n<style>{}</style></head><body>\n",
      reports.size() == 1 ? HtmlName(reports.front().path) : fmt::format("{} checkpoints", reports.size()), kStyle);
  for (const AuditReport& report : reports) {
    html += Head(report) + FindingsSection(report) + ForecastSection(report) + LinearsSection(report) + DtypesSection(report);
    html += PlotSection("Size by part", "Bytes of all tensors.", SizePlot(report));
    html += PlotSection("Zero points", HtmlText(report.zero_evidence), ZeroPlot(report));
    html += PlotSection("Codes", "Shares of the codes of each layer, all linears together: healthy weights have one hill in the middle.", HistogramPlot(report));
    html += PlotSection("Scales", "From the smallest scale that is not zero to the largest.", ScalePlot(report));
    if (!report.data.has_value()) html += "<p class=\"soft\">Codes and scales are shown with --read-data.</p>\n";
  }
  return html + fmt::format("<p class=\"soft\">qwen2-audit {}</p>\n</body></html>\n", Q2C_VERSION);
}

}  // namespace q2c
