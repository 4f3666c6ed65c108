#include "verify/report.h"

#include <sys/resource.h>

#include "formats/base/file.h"
#include "formats/base/text.h"
#include "formats/containers/safetensors.h"

namespace q2c {
namespace {

Json Real(double value) { return Json::Number(fmt::format("{:.6e}", value)); }

Json DistanceJson(const Distance& distance) {
  return Json::Object({{"largest_value", Real(distance.largest_value)}, {"largest_error", Real(distance.largest_error)}, {"mean_error", Real(distance.mean_error)}});
}

}  // namespace

Json FindingsJson(const std::vector<Error>& findings) {
  Json list = Json::Array();
  for (const Error& finding : findings) list.items().push_back(Json::Object({{"id", Json::String(finding.id)}, {"message", Json::String(finding.message)}}));
  return list;
}

Json ComparedJson(const Compared& compared) {
  Json json = Json::Object({{"linears", Json::Integer(compared.linears)}, {"weights", Json::Integer(compared.weights)}, {"tensors", Json::Integer(compared.tensors)}});
  if (compared.reordered > 0) json.Set("reordered", Json::Integer(compared.reordered));
  if (compared.padded > 0) json.Set("padded", Json::Integer(compared.padded));
  if (compared.rounded_weights > 0) {
    json.Set("rounding", Json::Object({{"values", Json::Integer(compared.rounded_weights)}, {"largest_error", Real(compared.largest_error)}, {"relative_rms", Real(compared.relative_rms)}}));
  }
  return json;
}

Json ForwardJson(const ForwardReport& report) {
  Json tokens = Json::Array();
  for (const uint32_t token : report.tokens) tokens.items().push_back(Json::Integer(uint64_t{token}));
  Json json = Json::Object({{"tokens", std::move(tokens)}});
  if (!report.states.empty()) {
    Json states = Json::Array();
    for (const Distance& distance : report.states) states.items().push_back(DistanceJson(distance));
    json.Set("equal", Json::Bool(report.equal));
    if (report.reordered) json.Set("reordered", Json::Bool(true));
    if (!report.first_difference.empty()) json.Set("first_difference", Json::String(report.first_difference));
    json.Set("states", std::move(states));
    json.Set("logits", DistanceJson(report.logits));
    json.Set("divergence", Real(report.divergence));
    json.Set("same_top", Json::Integer(report.same_top));
  }
  if (report.text.has_value()) {
    const TextScore& text = *report.text;
    Json score = Json::Object({{"vocabulary", Json::String(text.vocabulary)}, {"tokens", Json::Integer(text.tokens)}, {"loss", Real(text.loss)}});
    if (!text.other_reading.empty()) {
      score.Set("other_reading", Json::String(text.other_reading));
      score.Set("other_loss", Real(text.other_loss));
      score.Set("decides", Json::Bool(text.decides()));
    }
    json.Set("text", std::move(score));
  }
  if (report.experts > 0) json.Set("experts", Json::Object({{"all", Json::Integer(report.experts)}, {"reached", Json::Integer(report.experts_reached)}}));
  return json;
}

std::string ForwardText(const ForwardReport& report) {
  std::string out;
  if (!report.states.empty() && report.equal) {
    out += fmt::format("forward pass: {} tokens, {} layers: every hidden state and logit equal bit by bit\n", report.tokens.size(), report.states.size() - 1);
  } else if (!report.states.empty()) {
    out += fmt::format("forward pass: {} tokens; logits off by up to {:.3g} of {:.3g}, mean {:.3g}; divergence {:.3g}; the likeliest next token is the same for {}\n", report.tokens.size(), report.logits.largest_error,
                       report.logits.largest_value, report.logits.mean_error, report.divergence, report.same_top);
    for (size_t i = 0; i < report.states.size(); ++i) {
      const Distance& state = report.states[i];
      const std::string where = i == 0 ? "embedding" : i + 1 == report.states.size() ? "final norm" : fmt::format("layer {}", i - 1);
      out += fmt::format("  after {:<10}  off by up to {:.3g} of {:.3g}, mean {:.3g}\n", where, state.largest_error, state.largest_value, state.mean_error);
    }
    if (!report.first_difference.empty()) out += fmt::format("  first difference: {}\n", report.first_difference);
  }
  if (report.text.has_value()) {
    const TextScore& text = *report.text;
    out += fmt::format("text of {} tokens ({}): loss {:.3f}", text.tokens, Escape(text.vocabulary), text.loss);
    if (!text.other_reading.empty()) out += fmt::format(", read as {} {:.3f}{}", text.other_reading, text.other_loss, text.decides() ? "" : ": this does not tell which is right");
    out += '\n';
  }
  if (report.experts > 0) {
    out += fmt::format("experts: the tokens reached {} of {}{}\n", report.experts_reached, report.experts, report.experts_reached < report.experts ? "; the others are vouched for by hash and comparison only" : "");
  }
  return out;
}

std::string RoundingText(const Compared& compared) {
  if (compared.rounded_weights == 0) return "";
  return fmt::format("rounded: {} values, largest error {:.3g}, relative to the weights {:.3g} (root mean square)\n", compared.rounded_weights, compared.largest_error, compared.relative_rms);
}

Result<Json> ReadReport(std::string_view text) {
  QC_ASSIGN(Json json, ParseJson(text));
  const Json* format = json.Find("format");
  const Json* version = json.Find("version");
  if (format == nullptr || format->text() != kReportFormat || version == nullptr || !version->is_string()) return Malformed("report", "this is no report: expected \"format\": \"{}\" and a version", kReportFormat);
  if (version->text().substr(0, version->text().find('.')) != "1") {
    return Refused("report-version", "the report has format version {}, this program reads 1.x; use the version of qwen2-convert that wrote it", Escape(version->text(), 20));
  }
  return json;
}

Status WriteReport(const std::string& path, const Json& report) { return PutFile(path, AsBytes(report.Dump() + "\n")); }

Status WriteObservation(const std::string& path, const Observation& observation) {
  const auto append = [](const Rows& rows, std::string* data) {
    for (uint64_t t = 0; t < rows.count; ++t) data->append(reinterpret_cast<const char*>(rows.At(t)), rows.width * sizeof(float));  // NOLINT: bytes as text
  };
  const uint64_t tokens = observation.report.tokens.size();
  // In the order of the reference writer: the widest type first, then by name.
  std::vector<SafetensorsEntry> entries = {{"input_ids", Dtype::kI64, {tokens}}};
  entries.push_back({"hidden_states", Dtype::kF32, {observation.states.size(), tokens, observation.states[0].width}});
  std::string data;
  for (const int64_t token : std::vector<int64_t>(observation.report.tokens.begin(), observation.report.tokens.end())) data.append(reinterpret_cast<const char*>(&token), sizeof token);  // NOLINT: bytes as text
  for (const Rows& state : observation.states) append(state, &data);
  if (observation.logits.count > 0) {
    entries.push_back({"logits", Dtype::kF32, {tokens, observation.logits.width}});
    append(observation.logits, &data);
  }
  return PutFile(path, AsBytes(BuildSafetensorsHead(entries) + data));
}

uint64_t PeakMemory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

}  // namespace q2c
