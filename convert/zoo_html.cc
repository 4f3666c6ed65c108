// The report as one page: no script, no other file, plots drawn as SVG.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "convert/zoo_model.h"
#include "convert/zoo_report.h"
#include "formats/base/html.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

using State = UnitState::State;

constexpr std::string_view kStyle = R"(
:root{--ink:#1c2430;--soft:#5b6675;--line:#d8dee6;--paper:#fff;--panel:#f5f7fa;--good:#1d7a4f;--bad:#b3261e;--blue:#2f6fb3}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--line:#333c48;--paper:#12161c;--panel:#1a2028;--good:#4fc08d;--bad:#f2766d;--blue:#6ba8e8}}
body{margin:2rem auto;max-width:62rem;padding:0 1rem;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}p.sub{color:var(--soft);margin:.2rem 0 1.2rem;overflow-wrap:anywhere}
.tiles{display:flex;flex-wrap:wrap;gap:.7rem}.tile{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.6rem .9rem;min-width:7rem}
.tile b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}.tile span{color:var(--soft);font-size:.85rem}.good b{color:var(--good)}.bad b{color:var(--bad)}
table{border-collapse:collapse;width:100%;font-size:.88rem}th{text-align:left;color:var(--soft);font-weight:600}th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td.failed{color:var(--bad)}td.done{color:var(--good)}a{color:var(--blue)}code{font-size:.95em}
svg{width:100%;height:auto;background:var(--panel);border:1px solid var(--line);border-radius:6px}svg text{fill:var(--soft);font:12px system-ui,sans-serif}
svg .axis{stroke:var(--line)}svg .curve{fill:none;stroke:var(--blue);stroke-width:2}svg .fail{fill:none;stroke:var(--bad);stroke-width:2}svg .bar{fill:var(--blue)}details summary{cursor:pointer;color:var(--soft)}
)";

constexpr size_t kLongest = 2000;
std::string Html(std::string_view text) { return HtmlName(text, kLongest); }

std::string UrlPath(std::string_view path) {
  std::string out;
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || std::string_view("/-._~").find(c) != std::string_view::npos;
    out += plain ? std::string(1, c) : fmt::format("%{:02X}", byte);
  }
  return out;
}

std::string Figure(std::string_view name, const std::string& value, std::string_view kind = "") {
  return fmt::format("<div class=\"tile {}\"><b>{}</b><span>{}</span></div>\n", kind, value, name);
}

std::string Clock(double seconds) {
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  if (seconds < 120) return fmt::format("{:.0f} s", seconds);
  if (seconds < 7200) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

// The next of 1, 2, 5, 10, 20, … that is not below the value.
double RoundUp(double value) {
  if (value <= 0) return 1;
  const double power = std::pow(10, std::floor(std::log10(value)));
  for (const double step : {1.0, 2.0, 5.0, 10.0}) {
    if (step * power >= value) return step * power;
  }
  return value;
}

// A plot's frame: where values lie, and the axes with their numbers.
struct Frame {
  static constexpr double kWidth = 900;
  static constexpr double kHeight = 240;
  static constexpr double kLeft = 70;
  static constexpr double kRight = 20;
  static constexpr double kTop = 14;
  static constexpr double kBottom = 32;
  double seconds;
  double top;

  double X(double at) const { return kLeft + (kWidth - kLeft - kRight) * at / seconds; }
  double Y(double value) const { return kHeight - kBottom - (kHeight - kTop - kBottom) * value / top; }

  std::string Draw(const std::string& name, const std::string& content, const std::function<std::string(double)>& label) const {
    std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n", kWidth, kHeight, name);
    constexpr int kSteps = 4;
    for (int i = 0; i <= kSteps; ++i) {
      const double value = top * i / kSteps;
      out += fmt::format("<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/><text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLeft, kWidth - kRight, Y(value), Y(value), kLeft - 8, Y(value) + 4, label(value));
      const double at = seconds * i / kSteps;
      out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"{}\">{}</text>\n", X(at), kHeight - 10, i == 0 ? "start" : i == kSteps ? "end" : "middle", Clock(at));
    }
    return out + content + "</svg>\n";
  }
};

// Steps: how many of the sorted times have passed.
std::string Steps(const Frame& frame, const std::vector<double>& times, std::string_view kind) {
  if (times.empty()) return "";
  constexpr size_t kMostPoints = 2000;
  const size_t stride = times.size() / kMostPoints + 1;
  std::string points = fmt::format("M{:.1f} {:.1f}", frame.X(0), frame.Y(0));
  for (size_t i = 0; i < times.size(); ++i) {
    if (i % stride == 0 || i + 1 == times.size()) points += fmt::format("H{:.1f}V{:.1f}", frame.X(times[i]), frame.Y(static_cast<double>(i + 1)));
  }
  return fmt::format("<path class=\"{}\" d=\"{}H{:.1f}\"/>\n", kind, points, frame.X(frame.seconds));
}

std::string ProgressPlot(const ZooSummary& summary) {
  std::vector<double> done;
  std::vector<double> failed;
  for (const ZooRow& row : summary.rows) {
    if (!row.outcome.has_value() || row.state == State::kOpen) continue;
    (row.state == State::kDone ? done : failed).push_back(std::clamp(row.outcome->time - summary.begin, 0.0, summary.elapsed()));
  }
  std::ranges::sort(done);
  std::ranges::sort(failed);
  const Frame frame{summary.elapsed(), RoundUp(static_cast<double>(std::max(done.size(), failed.size())))};
  return frame.Draw("models done and failed over time", Steps(frame, done, "curve") + Steps(frame, failed, "fail"), [](double value) { return fmt::format("{:g}", value); });
}

// Bytes a second, each model's spread evenly over the time it took.
std::string RatePlot(const ZooSummary& summary) {
  constexpr size_t kBars = 60;
  std::array<double, kBars> bytes{};
  const double width = summary.elapsed() / kBars;
  for (const ZooRecord& record : summary.finished) {
    const double end = record.time - summary.begin;
    const double begin = std::max(0.0, end - record.seconds);
    const double rate = static_cast<double>(record.bytes + record.output_bytes) / std::max(end - begin, 1e-3);
    for (auto i = static_cast<size_t>(begin / width); i < kBars; ++i) {
      const double from = std::max(begin, width * static_cast<double>(i));
      const double to = std::min(end, width * static_cast<double>(i + 1));
      if (from >= end) break;
      bytes[i] += rate * std::max(to - from, 0.0);
    }
  }
  const Frame frame{summary.elapsed(), RoundUp(*std::ranges::max_element(bytes) / width)};
  std::string bars;
  for (size_t i = 0; i < kBars; ++i) {
    const double y = frame.Y(bytes[i] / width);
    bars += fmt::format("<rect class=\"bar\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>\n", frame.X(width * static_cast<double>(i)) + 1, y, frame.X(width) - frame.X(0) - 2, frame.Y(0) - y);
  }
  return frame.Draw("bytes read and written a second over time", bars, [](double value) { return HumanBytes(static_cast<uint64_t>(value)); });
}

std::string FailureTable(const ZooSummary& summary) {
  const auto failures = FailuresByFinding(summary);
  if (failures.empty()) return "<p>None.</p>\n";
  std::string out = "<table><tr><th>finding</th><th class=\"n\">models</th><th class=\"n\">exit</th><th>first message</th><th>which</th></tr>\n";
  constexpr size_t kNamed = 200;
  for (const auto& [id, group] : failures) {
    std::string models;
    for (size_t i = 0; i < std::min(kNamed, group.models.size()); ++i) models += Html(group.models[i]) + "<br>";
    if (group.models.size() > kNamed) models += fmt::format("and {} more", group.models.size() - kNamed);
    out += fmt::format("<tr><td><code>{}</code>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td><details><summary>names</summary>{}</details></td></tr>\n", Html(id), group.planned ? "<br>refused by the plan" : "",
                       group.models.size(), static_cast<int>(group.code), Html(group.message), models);
  }
  return out + "</table>\n";
}

std::string WorkerTable(const ZooSummary& summary) {
  struct Worker {
    uint64_t models = 0;
    uint64_t bytes = 0;
    double seconds = 0;
    double cpu = 0;
  };
  std::map<std::string, Worker> workers;
  for (const ZooRecord& record : summary.finished) {
    Worker& worker = workers[record.worker];
    ++worker.models;
    worker.bytes += record.bytes + record.output_bytes;
    worker.seconds += record.seconds;
    worker.cpu += record.cpu_seconds;
  }
  std::string out = "<table><tr><th>worker</th><th class=\"n\">models</th><th class=\"n\">read and written</th><th class=\"n\">work</th><th class=\"n\">processor</th></tr>\n";
  for (const auto& [name, worker] : workers) {
    out += fmt::format("<tr><td><code>{}</code></td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n", Html(name), worker.models, HumanBytes(worker.bytes), Clock(worker.seconds), Clock(worker.cpu));
  }
  return out + "</table>\n";
}

std::string ModelTable(const ZooSummary& summary, const std::string& reports) {
  constexpr size_t kMostRows = 5000;
  std::vector<const ZooRow*> rows;
  for (const ZooRow& row : summary.rows) rows.push_back(&row);
  // What needs a look comes first; the rest stays in the order of the plan.
  std::ranges::stable_sort(rows, {}, [](const ZooRow* row) { return row->state == State::kFailed ? 0 : row->state == State::kOpen ? 1 : 2; });
  std::string out = "<table><tr><th>model</th><th>state</th><th class=\"n\">read</th><th class=\"n\">written</th><th>exactness</th><th class=\"n\">seconds</th><th class=\"n\">memory</th><th>report</th></tr>\n";
  for (size_t i = 0; i < std::min(kMostRows, rows.size()); ++i) {
    const ZooRow& row = *rows[i];
    const bool done = row.state == State::kDone;
    const std::string_view state = done ? "done" : row.state == State::kFailed ? "failed" : "open";
    out += fmt::format("<tr><td>{}{}</td><td class=\"{}\">{}</td><td class=\"n\">{}</td>", Html(row.model->in), row.model->generic ? " <small>of no known architecture, taken as it is</small>" : "", state, state, HumanBytes(row.model->bytes));
    if (!row.outcome.has_value()) {
      out += "<td></td><td></td><td></td><td></td><td></td></tr>\n";
      continue;
    }
    const ZooRecord& record = *row.outcome;
    out += fmt::format("<td class=\"n\">{}</td><td>{}</td><td class=\"n\">{:.2f}</td><td class=\"n\">{}</td><td>{}</td></tr>\n", done ? HumanBytes(record.output_bytes) : "", done ? Html(record.exactness) : "<code>" + Html(record.id) + "</code>",
                       record.seconds, HumanBytes(record.peak_memory), done ? fmt::format("<a href=\"{}\">JSON</a>", UrlPath(JoinPath(reports, ReportPath(row.unit)))) : "");
  }
  out += "</table>\n";
  if (rows.size() > kMostRows) out += fmt::format("<p>{} more are in <code>qwen2-zoo report --json</code>.</p>\n", rows.size() - kMostRows);
  return out;
}

}  // namespace

std::string ZooReportHtml(const ZooSummary& summary, const std::string& reports) {
  const ZooPlan& plan = *summary.plan;
  std::string out = fmt::format("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Model zoo: {} of {} done</title>\n<style>{}</style></head><body>\n",
                                summary.done, summary.rows.size(), kStyle);
  out += fmt::format("<h1>Model zoo</h1><p class=\"sub\">{} &rarr; {}<br>plan {}, qwen2-zoo {}</p>\n<div class=\"tiles\">\n", Html(plan.root), Html(plan.out), Html(plan.path), Q2C_VERSION);
  out += Figure("done", fmt::format("{}", summary.done), "good");
  out += Figure("failed", fmt::format("{}", summary.failed), summary.failed > 0 ? "bad" : "");
  out += Figure("refused by the plan", fmt::format("{}", summary.refused));
  out += Figure("open", fmt::format("{}", summary.open));
  out += Figure("read", HumanBytes(summary.bytes)) + Figure("written", HumanBytes(summary.output_bytes));
  out += Figure("elapsed", Clock(summary.elapsed())) + Figure("processor time", Clock(summary.cpu_seconds)) + Figure("workers", fmt::format("{}", summary.workers));
  out += "</div>\n";
  if (summary.elapsed() > 0) {
    out += "<h2>Models done (blue) and failed (red)</h2>\n" + ProgressPlot(summary);
    out += "<h2>Bytes read and written a second</h2>\n" + RatePlot(summary);
  }
  out += "<h2>Failures by finding</h2>\n" + FailureTable(summary);
  if (!summary.finished.empty()) out += "<h2>Workers</h2>\n" + WorkerTable(summary);
  out += "<h2>Models</h2>\n" + ModelTable(summary, reports);
  for (const std::string& note : summary.notes) out += fmt::format("<p>{}</p>\n", Html(note));
  return out + "</body></html>\n";
}

}  // namespace q2c
