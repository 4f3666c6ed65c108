#include "convert/options.h"

#include <algorithm>
#include <array>
#include <set>

#include "formats/base/command_line.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

OptionTable CommonOptions() {
  OptionTable options = NewOptionTable();
  options.add_options()
      ("target", ListValue("NAME"), "what the output is for; repeat it for one output that serves several (see --list-targets)")
      ("dry-run", "print the plan and write nothing")
      ("explain", TextValue("TENSOR"), "tell what becomes of one tensor, named as in the input or the output; write nothing")
      ("verify", TextValue("LEVEL"), "forward: compare every weight with the input, and a forward pass of both (default); exact: only the former; hash: read every byte back; none")
      ("undo", "keep a small record in OUT from which --restore makes the files of IN again, byte for byte")
      ("restore", "IN is a folder written with --undo: write the files it was made from to OUT, with equal SHA-256")
      ("allow-rounding", "accept values that change by rounding; the report says by how much")
      ("force", "replace an output folder that is not empty, in one step")
      ("report", TextValue("FILE"), "write what was found, done and proven to FILE, as JSON")
      ("json", "print one JSON document on standard output")
      ("jobs", TextValue("N"), "threads (default: one a processor); the output does not depend on it")
      ("quiet,q", "print errors only")
      ("list-targets", "print the targets and the software they were last tried with")
      ("list-repairs", "print the repairs: what each does, when, and what becomes of a file without it")
      ("version", "print the version")
      ("help", HelpValue(), kHelpText);
  return options;
}

OptionTable FurtherOptions() {
  OptionTable options = NewOptionTable("Further options");
  options.add_options()
      ("tokens", TextValue("IDS"), "token ids of the forward pass, such as 9707,11,1879 (default: 16 spread over the vocabulary)")
      ("verify-tokens", TextValue("N"), "how many ids to spread over the vocabulary instead")
      ("verify-read", TextValue("FROM"), "cache: read back what programs would see (default); device: drop the cache first")
      ("layout", TextValue("NAME"), "layout of the quantised linears, where the target takes several")
      ("arch", TextValue("generic"), "where the architecture is not known, take the model as it is: nothing renamed, no bias judged, no forward pass")
      ("text-only", "leave out the vision tower, for a target that has no place for it")
      ("group-size", TextValue("N"), "split groups into groups of N inputs; N has to divide their size")
      ("pad-intermediate", TextValue("N"), "add channels of zeros between gate/up and down, to a multiple of N (tensor parallelism)")
      ("shard-size", TextValue("SIZE"), "largest shard, such as 5GB (default: the shards of the input)")
      ("untouched", TextValue("HOW"), "shards whose bytes stay the same: copy, reflink (share their blocks) or hardlink (be the files of IN); default: reflink where the file system can, else copy")
      ("drop", ListValue("GLOB"), "leave out tensors whose name in the input matches; may be repeated")
      ("only", ListValue("ID"), "make this repair and no other (see --list-repairs); may be repeated")
      ("skip", ListValue("ID"), "do not make this repair; may be repeated")
      ("zeros", TextValue("v1|v2"), "how the input stores zero points, where the data does not show it")
      ("sign", TextValue("KEY.pem"), "sign OUT with an elliptic-curve key (OpenSSF model signing); its passphrase is taken from $QWEN2_CONVERT_PASSPHRASE")
      ("provenance", "write provenance.intoto.json: the inputs by digest, the options, the outputs by digest (in-toto, SLSA v1); reads the input once more")
      ("card", "write CONVERSION.md, how OUT was made, and card.yaml, lines for the front matter of a model card; a README is never changed")
      ("archive", TextValue("FILE.tar.zst"), "write the finished folder to FILE as well, always the same bytes for the same folder; weights are stored, since compressing saves a tenth")
      ("progress", "tell on standard error how many bytes are done, in lines that a program can read, even with --quiet")
      ("timings", "tell where the time went, and what limited it")
      ("keep-failed", "where the verification fails, leave what was written in its hidden folder beside OUT")
      ("follow-links", "follow symbolic links in the input wherever they lead")
      ("verbose,v", "name every tensor in the plan");
  return options;
}

template <typename T>
struct Choice {
  std::string_view name;
  T value;
};

template <typename T, size_t N>
Result<T> Choose(std::string_view option, const std::string& text, const Choice<T> (&choices)[N]) {
  std::vector<std::string> names;
  for (const Choice<T>& choice : choices) {
    if (choice.name == text) return choice.value;
    names.emplace_back(choice.name);
  }
  return Usage("usage", "--{}={}: expected {}", option, Escape(text), Join(names, " or "));
}

// For lists whose order means nothing, and in which nothing counts twice.
std::vector<std::string> SortedOnce(const std::vector<std::string>& texts) {
  const std::set<std::string> sorted(texts.begin(), texts.end());
  return {sorted.begin(), sorted.end()};
}

Status ReadOptions(const GivenOptions& given, CommandLine* line) {
  JobOptions& job = line->job;
  const auto text = [&](const char* name) { return given[name].as<std::string>(); };
  job.targets = SortedOnce(TextsOf(given, "target"));
  job.drop = TextsOf(given, "drop");
  job.only = SortedOnce(TextsOf(given, "only"));
  job.skip = SortedOnce(TextsOf(given, "skip"));
  if (given.count("verify") != 0) {
    job.verify_given = true;
    constexpr Choice<VerifyLevel> kLevels[] = {{"forward", VerifyLevel::kForward}, {"exact", VerifyLevel::kExact}, {"hash", VerifyLevel::kHash}, {"none", VerifyLevel::kNone}};
    QC_ASSIGN(job.verify, Choose("verify", text("verify"), kLevels));
  }
  if (given.count("verify-read") != 0) {
    constexpr Choice<ReadFrom> kPlaces[] = {{"cache", ReadFrom::kCache}, {"device", ReadFrom::kDevice}};
    QC_ASSIGN(job.verify_read, Choose("verify-read", text("verify-read"), kPlaces));
  }
  if (given.count("zeros") != 0) {
    constexpr Choice<ZeroConvention> kConventions[] = {{"v1", ZeroConvention::kV1}, {"v2", ZeroConvention::kV2}};
    QC_ASSIGN(job.zeros, Choose("zeros", text("zeros"), kConventions));
  }
  if (given.count("untouched") != 0) {
    constexpr Choice<Untouched> kWays[] = {{"copy", Untouched::kCopy}, {"reflink", Untouched::kReflink}, {"hardlink", Untouched::kHardlink}};
    QC_ASSIGN(job.untouched, Choose("untouched", text("untouched"), kWays));
  }
  constexpr uint64_t kLargest = 1U << 20U;
  if (given.count("group-size") != 0) {
    QC_ASSIGN(job.group_size, NumberOf(given, "group-size", 1, kLargest));
  }
  if (given.count("pad-intermediate") != 0) {
    QC_ASSIGN(job.pad_intermediate, NumberOf(given, "pad-intermediate", 1, kLargest));
  }
  if (given.count("shard-size") != 0) {
    QC_ASSIGN(job.shard_bytes, ParseBytes(text("shard-size")));
  }
  if (given.count("tokens") != 0) {
    QC_ASSIGN(job.tokens, ParseTokens(text("tokens")));
  }
  if (given.count("verify-tokens") != 0) {
    constexpr uint64_t kMaxSpread = 4096;
    QC_ASSIGN(job.spread_tokens, NumberOf(given, "verify-tokens", 1, kMaxSpread));
  }
  if (given.count("report") != 0) job.report = text("report");
  job.undo = given.count("undo") != 0;
  if (given.count("sign") != 0) job.sign = text("sign");
  job.passphrase = EnvironmentVariable("QWEN2_CONVERT_PASSPHRASE");
  job.provenance = given.count("provenance") != 0;
  job.card = given.count("card") != 0;
  if (given.count("archive") != 0) job.archive = text("archive");
  job.timings = given.count("timings") != 0;
  job.keep_failed = given.count("keep-failed") != 0;
#ifdef Q2C_TEST_DAMAGE
  if (given.count("test-damage") != 0) job.test_damage = text("test-damage");
#endif
  QC_ASSIGN(job.jobs, JobsOf(given));
  if (given.count("layout") != 0) job.layout = text("layout");
  if (given.count("arch") != 0) {
    constexpr Choice<bool> kArchitectures[] = {{"generic", true}};
    QC_ASSIGN(job.generic, Choose("arch", text("arch"), kArchitectures));
  }
  job.text_only = given.count("text-only") != 0;
  job.allow_rounding = given.count("allow-rounding") != 0;
  if (given.count("force") != 0) job.overwrite = Overwrite::kReplace;
  if (given.count("follow-links") != 0) job.links = Links::kFollow;
  line->json = given.count("json") != 0;
  line->quiet = given.count("quiet") != 0;
  line->verbose = given.count("verbose") != 0;
  if (line->quiet) job.progress = Progress::Show::kNever;
  if (given.count("progress") != 0) job.progress = Progress::Show::kLines;
  return {};
}

// The record says all there is to say about a restoration.
Status CheckRestoreOptions(const GivenOptions& given) {
  constexpr std::array<std::string_view, 10> kAllowed = {"restore", "paths", "force", "follow-links", "jobs", "json", "progress", "quiet", "verbose", "test-damage"};
  for (const auto& [name, value] : given) {
    if (std::ranges::find(kAllowed, name) == kAllowed.end()) return Usage("usage", "--{} means nothing with --restore, which makes the input as it was", name);
  }
  return {};
}

}  // namespace

Manual ConvertManual() {
  Manual manual{CommonOptions(), FurtherOptions()};
  manual.name = "qwen2-convert";
  manual.summary = "rewrite a quantised Qwen2 checkpoint for other software, and prove the result";
  manual.usage = {"qwen2-convert IN OUT --target=NAME", "qwen2-convert --restore IN OUT"};
  manual.about = "Rewrites a quantised Qwen2 checkpoint for other software and proves that nothing was lost.\n"
                 "IN is a folder, a Hub snapshot folder or hf://org/name[@revision] (from the cache of this machine).\n"
                 "IN is never changed. OUT appears complete and verified, or not at all.\n";
  manual.exit_codes = "0 done and verified; 1 mismatch; 2 usage; 3 a check could not be run; 65 input malformed;\n"
                      "69 unsupported or refused; 70 internal error; 74 input or output failed; 75 try again; 76 no space;\n"
                      "77 permission; 130, 143 interrupted.\n";
  manual.values = {{"target", TargetNames()}, {"verify", {"forward", "exact", "hash", "none"}}, {"verify-read", {"cache", "device"}}, {"zeros", {"v1", "v2"}}, {"arch", {"generic"}}, {"untouched", {"copy", "reflink", "hardlink"}}};
  manual.see_also = {"qwen2-audit(1)", "qwen2-zoo(1)", "qwen2-convert-report(5)", "qwen2-convert-manifest(5)", "qwen2-convert-undo(5)"};
  return manual;
}

Result<CommandLine> ParseCommandLine(int argc, const char* const* argv) {
  OptionTable all = ConvertManual().Options();
#ifdef Q2C_TEST_DAMAGE
  all.add_options()("test-damage", TextValue("TENSOR:BIT"));
#endif
  QC_ASSIGN(const GivenOptions given, ParseOptions(std::move(all), argc, argv));
  CommandLine line;
  using Mode = CommandLine::Mode;
  if (given.count("help") != 0) return line.mode = Mode::kHelp, line.help = given["help"].as<std::string>(), line;
  if (given.count("version") != 0) return line.mode = Mode::kVersion, line;
  QC_TRY(ReadOptions(given, &line));
  if (given.count("list-targets") != 0) return line.mode = Mode::kListTargets, line;
  if (given.count("list-repairs") != 0) return line.mode = Mode::kListRepairs, line;
  if (given.count("dry-run") != 0) line.mode = Mode::kDryRun;
  if (given.count("restore") != 0) {
    line.mode = Mode::kRestore;
    QC_TRY(CheckRestoreOptions(given));
  }
  if (given.count("explain") != 0) {
    line.mode = Mode::kExplain;
    line.explain = given["explain"].as<std::string>();
  }
  const std::vector<std::string> paths = TextsOf(given, "paths");
  // Without writing, OUT may be left out.
  const bool writes = line.mode == Mode::kConvert || line.mode == Mode::kRestore;
  if (paths.size() > 2 || paths.empty() || (writes && paths.size() != 2)) {
    return Usage("usage", "expected IN and OUT, got {} paths{}; see --help", paths.size(), paths.size() > 2 ? fmt::format(" ('{}' is one too many)", Escape(paths[2])) : "");
  }
  if (line.job.targets.empty() && line.mode != Mode::kRestore) return Usage("usage", "no --target; known are {}", Join(TargetNames(), ", "));
  line.job.in = paths[0];
  if (paths.size() == 2) line.job.out = paths[1];
  for (const auto& [option, place] : {std::pair("report", &line.job.report), std::pair("archive", &line.job.archive)}) {
    for (size_t i = 0; !place->empty() && i < paths.size(); ++i) {
      if (IsInside(AbsolutePath(*place), AbsolutePath(paths[i]))) return Usage("usage", "--{}={}: expected a place outside of IN and OUT", option, Escape(*place));
    }
  }
  if (!line.job.archive.empty() && !line.job.archive.ends_with(".tar.zst")) return Usage("usage", "--archive={}: expected a name that ends with .tar.zst", Escape(line.job.archive));
  if (line.job.in.empty() || (paths.size() == 2 && line.job.out.empty())) return Usage("usage", "an empty path");
  return line;
}

}  // namespace q2c
