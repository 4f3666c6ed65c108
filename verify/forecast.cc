#include "verify/forecast.h"

#include <algorithm>
#include <array>

#include "formats/embedded.h"

namespace q2c {
namespace {

constexpr std::string_view kFolder = "loaders";
constexpr std::array<std::string_view, 9> kOrder = {"t4.40-o1.19", "t4.40-o1.20", "t4.57", "t5", "gptqmodel", "vllm", "sglang", "llama.cpp", "mlx"};
constexpr std::array<std::string_view, 5> kVerdicts = {"clean", "reports", "wrong", "refuses", "unknown"};
constexpr int kMaxUse = 4;  // rules that use rules that use …

// One wanted value against one value of a fact.
bool SameValue(const Json& fact, const Json& wanted) {
  if (wanted.is_object()) {
    const std::optional<double> number = fact.AsDouble();
    const Json* above = wanted.Find("above");
    const Json* below = wanted.Find("below");
    return number.has_value() && (above == nullptr || *number > above->AsDouble().value_or(0)) && (below == nullptr || *number < below->AsDouble().value_or(0));
  }
  if (fact.is_number() && wanted.is_number()) return fact.AsDouble() == wanted.AsDouble();
  return fact == wanted;
}

bool HasValue(const Json* fact, const Json& wanted) {
  if (fact == nullptr) return false;
  if (wanted.is_array()) return std::ranges::any_of(wanted.items(), [&](const Json& one) { return HasValue(fact, one); });
  if (fact->is_array()) return std::ranges::any_of(fact->items(), [&](const Json& one) { return SameValue(one, wanted); });
  return SameValue(*fact, wanted);
}

bool Applies(const Json& when, const Json& facts) {
  return std::ranges::all_of(when.members(), [&](const Json::Member& condition) {
    return condition.first == "not" ? !Applies(condition.second, facts) : HasValue(facts.Find(condition.first), condition.second);
  });
}

std::string Plain(const Json& value) {
  if (value.is_string()) return value.text();
  if (!value.is_array()) return value.Dump(-1);
  std::string list;
  for (const Json& item : value.items()) list += (list.empty() ? "" : ", ") + Plain(item);
  return list;
}

// Puts facts into the words of a reason.
std::string Fill(std::string_view text, const Json& facts) {
  std::string out;
  while (!text.empty()) {
    const size_t open = text.find('{');
    out += text.substr(0, open);
    if (open == std::string_view::npos) break;
    text.remove_prefix(open);
    const size_t close = text.find('}');
    if (close == std::string_view::npos) return out + std::string(text);
    const Json* fact = facts.Find(text.substr(1, close - 1));
    out += fact == nullptr ? "?" : Plain(*fact);
    text.remove_prefix(close + 1);
  }
  return out;
}

Result<Json> Load(std::string_view name) {
  const std::optional<std::string_view> text = EmbeddedText(kFolder, name);
  if (!text.has_value()) return Internal("there are no rules '{}'", name);
  return ParseJson(*text);
}

// The first rule that applies, or nothing.
Result<std::optional<Json>> FirstRule(const Json& rules, const Json& facts, int depth) {
  if (depth > kMaxUse) return Internal("rules of loaders use each other in a circle");
  for (const Json& rule : rules.items()) {
    if (const Json* use = rule.Find("use")) {
      QC_ASSIGN(const Json shared, Load(use->text()));
      QC_ASSIGN(std::optional<Json> found, FirstRule(*shared.Find("rules"), facts, depth + 1));
      if (found.has_value()) return found;
      continue;
    }
    if (Applies(*rule.Find("when"), facts)) return std::optional(rule);
  }
  return std::optional<Json>();
}

}  // namespace

std::vector<std::string> LoaderNames() { return {kOrder.begin(), kOrder.end()}; }

Result<Forecast> ForecastFor(const std::string& loader, const Json& facts) {
  QC_ASSIGN(const Json data, Load(loader));
  Json all = facts;
  for (const auto& [key, value] : data.Find("facts")->members()) all.Set(key, value);
  QC_ASSIGN(const std::optional<Json> rule, FirstRule(*data.Find("rules"), all, 0));
  const Json& decides = rule.has_value() ? *rule : *data.Find("otherwise");
  Forecast forecast{loader, decides.Find("verdict")->text(), Fill(decides.Find("reason")->text(), all), data.Find("target")->text(), {}};
  if (std::ranges::find(kVerdicts, forecast.verdict) == kVerdicts.end()) return Internal("loader '{}' has a verdict '{}'", loader, forecast.verdict);
  for (const Json& item : data.Find("verified_with")->items()) forecast.verified_with.push_back(item.text());
  return forecast;
}

Result<std::vector<Forecast>> ForecastAll(const Json& facts) {
  std::vector<Forecast> all;
  for (const std::string_view loader : kOrder) {
    QC_ASSIGN(Forecast forecast, ForecastFor(std::string(loader), facts));
    all.push_back(std::move(forecast));
  }
  return all;
}

}  // namespace q2c
