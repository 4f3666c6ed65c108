#include "convert/zoo_plan.h"

#include <algorithm>
#include <map>
#include <set>

#include "convert/options.h"
#include "formats/base/hash.h"
#include "formats/base/shared_folder.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr std::string_view kFormat = "qwen2-zoo-plan";
constexpr std::string_view kVersion = "1.0";
constexpr uint64_t kMaxLine = 1 << 20;

Json Strings(const std::vector<std::string>& texts) {
  Json list = Json::Array();
  for (const std::string& text : texts) list.items().push_back(Json::String(text));
  return list;
}

// Relative, of plain names: it cannot leave the folder it is below.
bool StaysBelow(const std::string& path) {
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    if (!IsPlainFileName(path.substr(begin, end - begin))) return false;
    begin = end + 1;
  }
  return true;
}

Result<std::string> TextOf(const Json& json, std::string_view key) {
  const Json* value = json.Find(key);
  if (value == nullptr || !value->is_string() || value->text().empty()) return Malformed("zoo-plan", "expected \"{}\": a text", key);
  return value->text();
}

Result<uint64_t> NumberOf(const Json& json, std::string_view key) {
  const Json* value = json.Find(key);
  const std::optional<uint64_t> number = value == nullptr ? std::nullopt : value->AsU64();
  if (!number.has_value()) return Malformed("zoo-plan", "expected \"{}\": a whole number", key);
  return *number;
}

Status ReadHead(std::string_view line, ZooPlan* plan) {
  QC_ASSIGN(const Json json, ParseJson(line));
  const Json* format = json.Find("format");
  if (format == nullptr || format->text() != kFormat) return Malformed("zoo-plan", "expected \"format\": \"{}\"; make the plan with 'qwen2-zoo plan'", kFormat);
  QC_ASSIGN(const std::string version, TextOf(json, "version"));
  if (version.substr(0, version.find('.')) != "1") {
    return Refused("zoo-plan-version", "the plan has format version {}, this program reads 1.x; use the version of qwen2-zoo that made it, or plan again", Escape(version, 20));
  }
  QC_ASSIGN(plan->root, TextOf(json, "root"));
  QC_ASSIGN(plan->out, TextOf(json, "out"));
  for (const std::string* path : {&plan->root, &plan->out}) {
    if (*path != AbsolutePath(*path)) return Malformed("zoo-plan", "'{}' is no absolute path", Escape(*path));
  }
  return CheckApart(plan->root, plan->out);
}

// Two outputs in one place, or one within the other: none of them can be trusted.
void RefuseTwins(ZooPlan* plan) {
  std::map<std::string, size_t> lines;  // by output: the first line that has it
  std::map<size_t, std::string> bad;
  for (const ZooModel& model : plan->models) {
    if (model.refused.has_value()) continue;
    const auto [found, fresh] = lines.emplace(model.out, model.line);
    if (fresh) continue;
    bad.emplace(model.line, fmt::format("the output '{}' is that of line {}, too", Escape(model.out), found->second));
    bad.emplace(found->second, fmt::format("the output '{}' is that of line {}, too", Escape(model.out), model.line));
  }
  for (const ZooModel& model : plan->models) {
    if (model.refused.has_value()) continue;
    for (size_t slash = model.out.find('/'); slash != std::string::npos; slash = model.out.find('/', slash + 1)) {
      const auto outer = lines.find(model.out.substr(0, slash));
      if (outer == lines.end()) continue;
      bad.emplace(model.line, fmt::format("the output '{}' lies in that of line {}", Escape(model.out), outer->second));
      bad.emplace(outer->second, fmt::format("the output of line {} lies in '{}'", model.line, Escape(outer->first)));
    }
  }
  for (const auto& [line, why] : bad) plan->bad_lines.push_back(Malformed("zoo-plan-output", "{}:{}: {}; neither is run", Escape(plan->path), line, why));
  std::erase_if(plan->models, [&](const ZooModel& model) { return bad.contains(model.line); });
}

// The path with its links resolved as far as it exists.
std::string RealAsFarAsThere(const std::string& path) {
  std::string there = AbsolutePath(path);
  std::string rest;
  for (;;) {
    if (const std::string real = RealPath(there); !real.empty()) return rest.empty() ? real : JoinPath(real, rest);
    if (there == ParentPath(there) || there.empty()) return AbsolutePath(path);
    rest = rest.empty() ? BaseName(there) : JoinPath(BaseName(there), rest);
    there = ParentPath(there);
  }
}

}  // namespace

std::string ZooModel::Unit() const {
  const Json content = Json::Array({Json::String(in), Json::String(out), Json::String(identity), Strings(options)});
  return Xxh3::Of(AsBytes(content.Dump(-1)));
}

std::string PlanHeadLine(const ZooPlan& plan) {
  uint64_t bytes = 0;
  uint64_t output_bytes = 0;
  for (const ZooModel& model : plan.models) {
    if (model.refused.has_value()) continue;
    bytes += model.bytes;
    output_bytes += model.output_bytes;
  }
  const auto refused = static_cast<uint64_t>(std::ranges::count_if(plan.models, [](const ZooModel& model) { return model.refused.has_value(); }));
  return Json::Object({{"format", Json::String(kFormat)}, {"version", Json::String(kVersion)}, {"tool", Json::String(Q2C_VERSION)}, {"root", Json::String(plan.root)}, {"out", Json::String(plan.out)},
                       {"models", Json::Integer(uint64_t{plan.models.size()})}, {"refused", Json::Integer(refused)}, {"bytes", Json::Integer(bytes)}, {"output_bytes", Json::Integer(output_bytes)}})
             .Dump(-1) + "\n";
}

std::string PlanLine(const ZooModel& model) {
  Json json = Json::Object({{"in", Json::String(model.in)}, {"out", Json::String(model.out)}, {"bytes", Json::Integer(model.bytes)}, {"identity", Json::String(model.identity)}, {"options", Strings(model.options)}});
  if (model.refused.has_value()) {
    const Error& error = *model.refused;
    json.Set("refused", Json::Object({{"exit", Json::Integer(static_cast<int>(error.code))}, {"id", Json::String(error.id)}, {"message", Json::String(error.message)}}));
  } else {
    if (model.generic) json.Set("architecture", Json::String("generic"));
    json.Set("output_bytes", Json::Integer(model.output_bytes));
    json.Set("seconds", Json::Number(fmt::format("{:.1f}", model.seconds)));
  }
  return json.Dump(-1) + "\n";
}

Result<ZooModel> ParsePlanLine(std::string_view line) {
  QC_ASSIGN(const Json json, ParseJson(line));
  ZooModel model;
  QC_ASSIGN(model.in, TextOf(json, "in"));
  QC_ASSIGN(model.out, TextOf(json, "out"));
  if (!StaysBelow(model.in)) return Malformed("zoo-plan-path", "the input '{}' is no path below the root", Escape(model.in));
  if (!StaysBelow(model.out)) return Malformed("zoo-plan-path", "the output '{}' is no path below the folder of outputs", Escape(model.out));
  QC_ASSIGN(model.bytes, NumberOf(json, "bytes"));
  const Json* identity = json.Find("identity");
  if (identity == nullptr || !identity->is_string()) return Malformed("zoo-plan", "expected \"identity\": a text");
  model.identity = identity->text();
  const Json* options = json.Find("options");
  if (options == nullptr || !options->is_array()) return Malformed("zoo-plan", "expected \"options\": a list of options of qwen2-convert");
  for (const Json& option : options->items()) {
    if (!option.is_string()) return Malformed("zoo-plan", "expected \"options\": a list of texts");
    model.options.push_back(option.text());
  }
  QC_TRY(CheckZooOptions(model.options));
  if (const Json* refused = json.Find("refused"); refused != nullptr) {
    Error error;
    QC_ASSIGN(const uint64_t code, NumberOf(*refused, "exit"));
    error.code = static_cast<Code>(code);
    QC_ASSIGN(error.id, TextOf(*refused, "id"));
    QC_ASSIGN(error.message, TextOf(*refused, "message"));
    model.refused = std::move(error);
    return model;
  }
  const Json* architecture = json.Find("architecture");
  model.generic = architecture != nullptr && architecture->text() == "generic";
  QC_ASSIGN(model.output_bytes, NumberOf(json, "output_bytes"));
  model.seconds = json.Find("seconds") != nullptr ? json.Find("seconds")->AsDouble().value_or(0) : 0;
  return model;
}

Result<ZooPlan> ReadZooPlan(const std::string& path) {
  ZooPlan plan;
  plan.path = path;
  QC_ASSIGN(const Dir folder, Dir::Open(ParentPath(AbsolutePath(path))));
  QC_ASSIGN(const InputFile file, InputFile::Open(folder, BaseName(AbsolutePath(path)), Links::kFollow));
  size_t number = 0;
  std::set<std::vector<std::string>> understood;  // a zoo has few different sets of options
  const auto read = [&](std::string_view line) -> Status {
    ++number;
    const std::string where = fmt::format("{}:{}", Escape(path), number);
    if (number == 1) {
      Status head = ReadHead(line, &plan);
      return head.ok() ? Status() : Status(std::move(head).TakeError().Within(where));
    }
    Result<ZooModel> model = ParsePlanLine(line);
    if (!model.ok()) {
      plan.bad_lines.push_back(std::move(model).TakeError().Within(where));
      return {};
    }
    model.value().line = number;
    if (!understood.contains(model.value().options)) {
      if (Result<JobOptions> job = ZooJob("in", "out", model.value().options); !job.ok()) {
        plan.bad_lines.push_back(std::move(job).TakeError().Within(where));
        return {};
      }
      understood.insert(model.value().options);
    }
    plan.models.push_back(std::move(model).value());
    return {};
  };
  uint64_t offset = 0;
  QC_ASSIGN(const uint64_t torn, VisitLines(file, &offset, kMaxLine, read));
  if (number == 0) return Malformed("zoo-plan", "{}: expected a line with \"format\": \"{}\" and a newline", Escape(path), kFormat);
  if (torn > 0) plan.bad_lines.push_back(Malformed("zoo-plan", "{}:{}: the last line has no end; the plan may have been cut off", Escape(path), number + 1));
  RefuseTwins(&plan);
  return plan;
}

std::string ZooPlanOptionNames() {
  std::vector<std::string> names;
  for (const ZooPlanOption& option : kZooPlanOptions) names.push_back(fmt::format("--{}", option.name));
  return Join(names, ", ");
}

Status CheckZooOptions(const std::vector<std::string>& options) {
  for (const std::string& option : options) {
    const std::string_view name = std::string_view(option).substr(0, option.find('='));
    if (!name.starts_with("--") || std::ranges::find(kZooPlanOptions, name.substr(2), &ZooPlanOption::name) == std::end(kZooPlanOptions)) {
      return Usage("usage", "'{}' is no option that a plan may hold; expected {}", Escape(option), ZooPlanOptionNames());
    }
  }
  return {};
}

Result<JobOptions> ZooJob(const std::string& in, const std::string& out, const std::vector<std::string>& options) {
  std::vector<const char*> arguments{"qwen2-convert"};
  for (const std::string& option : options) arguments.push_back(option.c_str());
  arguments.push_back("--");
  arguments.push_back(in.c_str());
  arguments.push_back(out.c_str());
  QC_ASSIGN(CommandLine line, ParseCommandLine(static_cast<int>(arguments.size()), arguments.data()));
  line.job.progress = Progress::Show::kNever;
  return std::move(line.job);
}

Status CheckApart(const std::string& root, const std::string& out) {
  const std::string a = RealAsFarAsThere(root);
  const std::string b = RealAsFarAsThere(out);
  if (!IsInside(a, b) && !IsInside(b, a)) return {};
  return Usage("output-input", "the folder of outputs '{}' is, lies in or contains the root '{}'; choose another place", Escape(out), Escape(root));
}

}  // namespace q2c
