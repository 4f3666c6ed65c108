#include "convert/zoo_options.h"

#include <algorithm>
#include <map>

#include "formats/base/command_line.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

using Mode = ZooCommand::Mode;

// Which option belongs to which commands; those of kPlan that are not named here are qwen2-convert's.
struct OptionUse {
  std::string_view name;
  std::vector<Mode> modes;
};
const std::vector<OptionUse>& OptionUses() {
  static const std::vector<OptionUse> kUses = {
      {"include", {Mode::kPlan}},
      {"exclude", {Mode::kPlan}},
      {"digest", {Mode::kPlan}},
      {"jobs", {Mode::kPlan, Mode::kRun, Mode::kVerify}},
      {"leases", {Mode::kRun, Mode::kStatus, Mode::kReport}},
      {"limit", {Mode::kRun}},
      {"stale", {Mode::kRun}},
      {"memory", {Mode::kRun}},
      {"disk-reserve", {Mode::kRun}},
      {"json", {Mode::kStatus, Mode::kReport, Mode::kVerify}},
      {"html", {Mode::kReport}},
      {"only", {Mode::kPlan, Mode::kRetry}},  // repairs in a plan, findings to retry
      {"quiet", {Mode::kPlan, Mode::kRun}},
  };
  return kUses;
}

OptionTable VisibleOptions() {
  OptionTable options = NewOptionTable();
  options.add_options()
      ("include", ListValue("GLOB"), "plan: only models whose path below ROOT matches; '*' matches '/', too; may be repeated")
      ("exclude", ListValue("GLOB"), "plan: no models whose path matches; may be repeated")
      ("digest", "plan: identify models by all of their bytes, not only by names, sizes and the ends of the files; a run then reads each model twice")
      ("jobs", TextValue("N"), "plan, run, verify: threads (default: one a processor); small models run side by side, a large one takes all")
      ("leases", TextValue("DIR"), "run: folder of the leases, the same for all workers of a plan (default: PLAN.d/leases)")
      ("limit", TextValue("N"), "run: end after N models")
      ("stale", TextValue("SECONDS"), "run: take a model over when its worker has shown no life for so long (default: 60)")
      ("memory", TextValue("SIZE"), "run: memory for the models in work together (default: four fifths of what is free)")
      ("disk-reserve", TextValue("SIZE"), "run: begin no model that would leave less room than this (default: 268MB)")
      ("json", "status, report, verify: print one JSON document")
      ("html", TextValue("FILE"), "report: write it to FILE, as one page that needs no other file")
      ("only", ListValue("FINDING"), "retry: only models that failed with this finding; output-missing: those whose output has been removed; may be repeated")
      ("quiet,q", "plan, run: print errors only")
      ("version", "print the version")
      ("help", HelpValue(), kHelpText);
  return options;
}

// Back into words, one form for each meaning, so that equal plans are equal bytes.
std::vector<std::string> PassedOn(const GivenOptions& given) {
  std::vector<std::string> words;
  for (const ZooPlanOption& option : kZooPlanOptions) {
    const std::string name(option.name);
    if (given.count(name) == 0) continue;
    if (!option.has_value) {
      words.push_back(fmt::format("--{}", name));
      continue;
    }
    std::vector<std::string> values = TextsOf(given, name.c_str());
    std::ranges::sort(values);
    for (const std::string& value : values) words.push_back(fmt::format("--{}={}", name, value));
  }
  return words;
}

Status ReadOptions(const GivenOptions& given, ZooCommand* command) {
  constexpr uint64_t kDay = 86400;
  command->find.include = TextsOf(given, "include");
  command->find.exclude = TextsOf(given, "exclude");
  command->find.whole_files = given.count("digest") != 0;
  command->find.options = PassedOn(given);
  command->only = TextsOf(given, "only");
  command->json = given.count("json") != 0;
  if (given.count("html") != 0) command->html = given["html"].as<std::string>();
  command->run.quiet = given.count("quiet") != 0;
  QC_ASSIGN(command->run.jobs, JobsOf(given));
  command->find.jobs = command->run.jobs;
  if (given.count("leases") != 0) command->run.leases = given["leases"].as<std::string>();
  if (given.count("limit") != 0) {
    QC_ASSIGN(command->run.limit, NumberOf(given, "limit", 1, UINT32_MAX));
  }
  if (given.count("stale") != 0) {
    QC_ASSIGN(const uint64_t seconds, NumberOf(given, "stale", 1, kDay));
    command->run.stale_seconds = static_cast<double>(seconds);
  }
  if (given.count("memory") != 0) {
    QC_ASSIGN(command->run.memory, ParseBytes(given["memory"].as<std::string>()));
  }
  if (given.count("disk-reserve") != 0) {
    QC_ASSIGN(command->run.disk_reserve, ParseBytes(given["disk-reserve"].as<std::string>()));
  }
#ifdef Q2C_TEST_DAMAGE
  if (given.count("test-crash") != 0) command->run.test_crash = given["test-crash"].as<std::string>();
#endif
  return {};
}

Status CheckUses(const GivenOptions& given, Mode mode, const std::string& name) {
  for (const auto& [option, value] : given) {
    const auto& uses = OptionUses();
    const auto use = std::ranges::find(uses, option, &OptionUse::name);
    const bool passed_on = std::ranges::find(kZooPlanOptions, option, &ZooPlanOption::name) != std::end(kZooPlanOptions);
    const bool belongs = use != uses.end() ? std::ranges::find(use->modes, mode) != use->modes.end() : !passed_on || mode == Mode::kPlan;
    if (!belongs) return Usage("usage", "--{} does not belong to '{}'; see --help", option, name);
  }
  return {};
}

// Lines of at most 100 characters.
std::string Wrapped(const std::string& words) {
  constexpr size_t kColumns = 100;
  std::string out;
  size_t column = 0;
  for (size_t begin = 0; begin < words.size();) {
    const size_t end = std::min(words.find(' ', begin), words.size());
    if (column == 0 || column + end - begin > kColumns) {
      out += column == 0 ? "  " : "\n  ";
      column = 2;
    } else {
      out += ' ';
    }
    out += words.substr(begin, end - begin);
    column += end - begin + 1;
    begin = end + 1;
  }
  return out + "\n";
}

}  // namespace

Manual ZooManual() {
  Manual manual{VisibleOptions(), NewOptionTable("Further options")};
  manual.name = "qwen2-zoo";
  manual.summary = "rewrite every checkpoint of a model zoo, on one machine or many";
  manual.usage = {"qwen2-zoo plan ROOT OUT --target=NAME [options of qwen2-convert] > PLAN", "qwen2-zoo run PLAN", "qwen2-zoo status|report|verify|retry PLAN"};
  manual.about = "Rewrites every checkpoint below ROOT, each as qwen2-convert would, and each to its path below OUT.\n"
                 "Any number of workers, on any number of machines that share the folders, may run one plan; any of them\n"
                 "may die. To go on after an interruption, run it again. One Ctrl-C lets the models in work be finished,\n"
                 "a second stops them. Journals, reports and leases lie in PLAN.d/; OUT holds finished models only.\n";
  manual.notes = "Options of qwen2-convert that a plan may hold, see there:\n" + Wrapped(ZooPlanOptionNames());
  manual.exit_codes = "0 done; 1 a model is refused (plan), has failed (run) or does not match (verify); 2 usage;\n"
                      "65 plan malformed; 69 unsupported or refused; 70 internal error; 74 input or output failed; 75 try again;\n"
                      "76 no space; 77 permission; 130, 143 interrupted.\n";
  manual.commands = {{"plan", "find the checkpoints, plan each, print the plan"},
                     {"run", "convert until every model is done or has failed"},
                     {"status", "how far it is"},
                     {"report", "what was done, how fast, and what failed why"},
                     {"verify", "hold every output against its manifest"},
                     {"retry", "give failed models another chance at the next run"}};
  manual.see_also = {"qwen2-convert(1)", "qwen2-audit(1)", "qwen2-zoo-plan(5)"};
  return manual;
}

Result<ZooCommand> ParseZooCommand(int argc, const char* const* argv) {
  OptionTable all = VisibleOptions();
  for (const ZooPlanOption& option : kZooPlanOptions) {
    if (all.find_nothrow(std::string(option.name), false) != nullptr) continue;  // "only" is also one of ours
    if (option.has_value) all.add_options()(std::string(option.name).c_str(), ListValue("VALUE"));
    else all.add_options()(std::string(option.name).c_str(), "");
  }
#ifdef Q2C_TEST_DAMAGE
  all.add_options()("test-crash", TextValue("GLOB"));
#endif
  QC_ASSIGN(const GivenOptions given, ParseOptions(std::move(all), argc, argv));
  ZooCommand command;
  if (given.count("help") != 0) return command.mode = Mode::kHelp, command.help = given["help"].as<std::string>(), command;
  if (given.count("version") != 0) return command.mode = Mode::kVersion, command;
  const std::vector<std::string> words = TextsOf(given, "paths");
  static const std::map<std::string, Mode> kModes = {{"plan", Mode::kPlan}, {"run", Mode::kRun}, {"status", Mode::kStatus}, {"report", Mode::kReport}, {"verify", Mode::kVerify}, {"retry", Mode::kRetry}};
  const auto mode = words.empty() ? kModes.end() : kModes.find(words[0]);
  if (mode == kModes.end()) return Usage("usage", "{}; expected plan, run, status, report, verify or retry; see --help", words.empty() ? "no command" : fmt::format("'{}' is no command", Escape(words[0])));
  command.mode = mode->second;
  const size_t expected = command.mode == Mode::kPlan ? 3 : 2;
  if (words.size() != expected) return Usage("usage", "expected '{}' and {}, got {} paths; see --help", words[0], expected == 3 ? "ROOT and OUT" : "PLAN", words.size() - 1);
  for (const std::string& word : words) {
    if (word.empty()) return Usage("usage", "an empty path");
  }
  QC_TRY(CheckUses(given, command.mode, words[0]));
  QC_TRY(ReadOptions(given, &command));
  if (command.mode == Mode::kPlan) {
    command.root = words[1];
    command.out = words[2];
  } else {
    command.plan = words[1];
  }
  if (command.json && !command.html.empty()) return Usage("usage", "--json and --html: one at a time");
  return command;
}

}  // namespace q2c
