#include "verify/audit_plots.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "formats/base/html.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr double kLabel = 90;   // width of the column of labels
constexpr double kWidth = 620;  // of the whole picture
constexpr double kRow = 16;

// "layer 3" of a linear's name, or nothing.
std::optional<uint64_t> LayerOf(const std::string& name) {
  for (const std::string_view prefix : {"layers.", ".h."}) {
    const size_t at = name.find(prefix);
    if (at == std::string::npos) continue;
    uint64_t number = 0;
    size_t i = at + prefix.size();
    const size_t begin = i;
    for (; i < name.size() && name[i] >= '0' && name[i] <= '9'; ++i) number = number * 10 + static_cast<uint64_t>(name[i] - '0');
    if (i > begin && i - begin < 10) return number;
  }
  return std::nullopt;
}

std::string Open(double height, std::string_view title) {
  return fmt::format("<svg viewBox=\"0 0 {} {:.0f}\" role=\"img\" aria-label=\"{}\"><title>{}</title>\n", kWidth, height, title, title);
}
std::string Label(double y, const std::string& text) { return fmt::format("<text x=\"{}\" y=\"{:.1f}\" class=\"l\">{}</text>\n", kLabel - 6, y + kRow - 4, HtmlName(text)); }
std::string Word(double x, double y, std::string_view text, std::string_view anchor = "middle") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, text);
}
std::string Rule(double x, double height) { return fmt::format("<line x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"0\" y2=\"{1:.1f}\" class=\"g\"/>\n", x, height); }

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  double sum = 0;
  uint64_t count = 0;
  void Add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
    sum += value;
    ++count;
  }
};

}  // namespace

std::string SizePlot(const AuditReport& report) {
  if (report.parts.empty()) return "";
  uint64_t most = 1;
  for (const PartSize& part : report.parts) most = std::max(most, part.bytes);
  constexpr double kNumbers = 90;
  const double height = kRow * static_cast<double>(report.parts.size());
  std::string svg = Open(height, "Bytes by part");
  double y = 0;
  for (const PartSize& part : report.parts) {
    const double width = (kWidth - kLabel - kNumbers) * static_cast<double>(part.bytes) / static_cast<double>(most);
    svg += Label(y, part.name);
    svg += fmt::format("<rect x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" class=\"b\"/>\n", kLabel, y + 2, width, kRow - 4);
    svg += Word(kLabel + width + 5, y + kRow - 4, HumanBytes(part.bytes), "start");
    y += kRow;
  }
  return svg + "</svg>\n";
}

std::string HistogramPlot(const AuditReport& report) {
  if (!report.data.has_value()) return "";
  std::map<uint64_t, std::pair<std::array<double, kHistogramBins>, uint64_t>> layers;
  for (const LinearData& linear : report.data->linears) {
    const std::optional<uint64_t> layer = LayerOf(linear.name);
    if (!layer.has_value() || linear.sampled == 0) continue;
    auto& [shares, count] = layers[*layer];
    ++count;
    for (size_t i = 0; i < kHistogramBins; ++i) shares[i] += linear.histogram[i];
  }
  if (layers.empty()) return "";
  constexpr double kFoot = 18;
  const double cell = (kWidth - kLabel) / static_cast<double>(kHistogramBins);
  const double height = kRow * static_cast<double>(layers.size());
  double most = 0;
  for (const auto& [layer, sums] : layers) most = std::max(most, *std::ranges::max_element(sums.first) / static_cast<double>(sums.second));
  std::string svg = Open(height + kFoot, "Shares of the codes in each layer");
  double y = 0;
  for (const auto& [layer, sums] : layers) {
    svg += Label(y, fmt::format("layer {}", layer));
    for (size_t i = 0; i < kHistogramBins; ++i) {
      const double share = sums.first[i] / static_cast<double>(sums.second);
      if (share <= 0) continue;
      svg += fmt::format("<rect x=\"{:.1f}\" y=\"{:.0f}\" width=\"{:.1f}\" height=\"{}\" class=\"b\" fill-opacity=\"{:.2f}\"/>\n", kLabel + cell * static_cast<double>(i) + 0.5, y + 1, cell - 1, kRow - 2, std::max(0.03, share / most));
    }
    y += kRow;
  }
  svg += Word(kLabel + cell / 2, height + 13, "lowest code") + Word(kWidth - cell / 2, height + 13, "highest", "end");
  return svg + "</svg>\n";
}

std::string ZeroPlot(const AuditReport& report) {
  std::map<uint64_t, Range> layers;
  for (const LinearSummary& linear : report.linears) {
    const std::optional<uint64_t> layer = LayerOf(linear.name);
    if (layer.has_value() && linear.sampled && std::isfinite(linear.zero_evidence)) layers[*layer].Add(linear.zero_evidence);
  }
  if (layers.empty()) return "";
  constexpr double kFrom = -1;
  constexpr double kTo = 2;
  constexpr double kFoot = 18;
  const auto x = [&](double value) { return kLabel + (kWidth - kLabel) * (std::clamp(value, kFrom, kTo) - kFrom) / (kTo - kFrom); };
  const double height = kRow * static_cast<double>(layers.size());
  std::string svg = Open(height + kFoot, "Mean of code minus zero field in each layer: about 1 for v1, about 0 for v2");
  svg += Rule(x(0), height) + Rule(x(1), height);
  double y = 0;
  for (const auto& [layer, range] : layers) {
    svg += Label(y, fmt::format("layer {}", layer));
    svg += fmt::format("<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{:.1f}\" y2=\"{:.1f}\" class=\"r\"/>\n", x(range.low), x(range.high) + 0.5, y + kRow / 2, y + kRow / 2);
    svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" class=\"b\"/>\n", x(range.sum / static_cast<double>(range.count)), y + kRow / 2);
    y += kRow;
  }
  svg += Word(x(0), height + 13, "0: v2") + Word(x(1), height + 13, "1: v1");
  return svg + "</svg>\n";
}

std::string ScalePlot(const AuditReport& report) {
  if (!report.data.has_value()) return "";
  std::map<uint64_t, Range> layers;
  Range all;
  for (const LinearData& linear : report.data->linears) {
    const std::optional<uint64_t> layer = LayerOf(linear.name);
    if (!layer.has_value() || linear.bits == 0) continue;
    for (const double scale : {linear.scale_low, linear.scale_high}) {
      if (!(scale > 0) || !std::isfinite(scale)) continue;
      layers[*layer].Add(std::log10(scale));
      all.Add(std::log10(scale));
    }
  }
  if (layers.empty()) return "";
  const double from = std::floor(all.low);
  const double to = std::max(from + 1, std::ceil(all.high));
  constexpr double kFoot = 18;
  const auto x = [&](double value) { return kLabel + 14 + (kWidth - kLabel - 28) * (value - from) / (to - from); };
  const double height = kRow * static_cast<double>(layers.size());
  std::string svg = Open(height + kFoot, "Smallest to largest scale in each layer, on a logarithmic axis");
  for (int step = 0; step <= static_cast<int>(to - from); ++step) {
    const double power = from + step;
    svg += Rule(x(power), height) + Word(x(power), height + 13, fmt::format("1e{:.0f}", power));
  }
  double y = 0;
  for (const auto& [layer, range] : layers) {
    svg += Label(y, fmt::format("layer {}", layer));
    svg += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" class=\"b\"/>\n", x(range.low), y + 4, std::max(1.0, x(range.high) - x(range.low)), kRow - 8);
    y += kRow;
  }
  return svg + "</svg>\n";
}

}  // namespace q2c
