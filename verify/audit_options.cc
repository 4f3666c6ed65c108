#include "verify/audit_options.h"

#include <algorithm>

#include "formats/base/command_line.h"
#include "formats/base/text.h"
#include "formats/target.h"

namespace q2c {
namespace {

OptionTable CommonOptions() {
  OptionTable options = NewOptionTable();
  options.add_options()
      ("read-data", "read every byte: scales, codes, float tensors, and the digests of the files")
      ("check-manifest", "compare the files with SHA256SUMS, the manifest, the names in a Hub cache and the like")
      ("target", TextValue("NAME"), "judge and repair for this target of qwen2-convert")
      ("against", TextValue("DIR2"), "are DIR and DIR2 the same model, whatever their layouts?")
      ("fingerprint", "print two digests that depend on the weights only: 'values' of the weights, 'qlf1' of codes, zero points and scales")
      ("forward", "run a forward pass; NaN or infinity is a finding")
      ("fail-on", TextValue("SEVERITY"), "error or warning: what counts for the exit code (default: warning; notes never do)")
      ("report", TextValue("FILE"), "write a report to FILE, which ends in .html or .json")
      ("json", "print one JSON document on standard output")
      ("sarif", "print SARIF 2.1.0 on standard output")
      ("list-findings", TextValue("FORMAT")->implicit_value("text"), "print the table of findings (text, markdown; with --json as JSON)")
      ("jobs", TextValue("N"), "threads (default: one a processor); no result depends on it")
      ("version", "print the version")
      ("help", HelpValue(), kHelpText);
  return options;
}

OptionTable FurtherOptions() {
  OptionTable options = NewOptionTable("Further options");
  options.add_options()
      ("per-tensor", "with --fingerprint: the digests of every tensor")
      ("verify-signature", TextValue("PUB.pem")->implicit_value(""), "is DIR what model.sig was written over (OpenSSF model signing), and by the holder of this key?")
      ("weights-only", "with --against: leave config, tokenizer and chat template out of the verdict")
      ("forward-out", TextValue("FILE"), "with --forward: write input_ids, logits and hidden_states to FILE (safetensors)")
      ("tokens", TextValue("IDS"), "token ids of the forward pass, such as 9707,11,1879 (default: 16 spread over the vocabulary)")
      ("verify-tokens", TextValue("N"), "how many ids to spread over the vocabulary instead")
      ("arch", TextValue("generic"), "where the architecture is not known, judge what the tensors and configs show by themselves")
      ("zeros", TextValue("v1|v2"), "how GPTQ zero points are stored, where the data does not show it")
      ("follow-links", "follow symbolic links wherever they lead");
  return options;
}

Status ReadOptions(const GivenOptions& given, AuditOptions* options) {
  const auto has = [&](const char* name) { return given.count(name) != 0; };
  const auto text = [&](const char* name) { return given[name].as<std::string>(); };
  constexpr uint64_t kMaxSpread = 4096;
  if (has("tokens")) {
    QC_ASSIGN(options->tokens, ParseTokens(text("tokens")));
  }
  if (has("verify-tokens")) {
    QC_ASSIGN(options->spread_tokens, NumberOf(given, "verify-tokens", 1, kMaxSpread));
  }
  QC_ASSIGN(options->jobs, JobsOf(given));
  if (has("zeros")) {
    const std::string zeros = text("zeros");
    if (zeros != "v1" && zeros != "v2") return Usage("usage", "--zeros={}: expected v1 or v2", Escape(zeros));
    options->zeros = zeros == "v1" ? ZeroConvention::kV1 : ZeroConvention::kV2;
  }
  if (has("arch") && text("arch") != "generic") return Usage("usage", "--arch={}: expected generic", Escape(text("arch")));
  options->generic = has("arch");
  if (has("against")) options->against = text("against");
  if (has("verify-signature")) options->public_key = text("verify-signature");
  if (has("forward-out")) options->forward_out = text("forward-out");
  AuditRequest& request = options->request;
  request.read_data = has("read-data");
  request.check_manifest = has("check-manifest");
  if (has("target")) request.target = text("target");
  if (has("fail-on")) {
    const std::string severity = text("fail-on");
    if (severity != "error" && severity != "warning") return Usage("usage", "--fail-on={}: expected error or warning", Escape(severity));
    options->fail_on = severity == "error" ? Severity::kError : Severity::kWarning;
  }
  if (has("report")) {
    options->report = text("report");
    if (!options->report.ends_with(".html") && !options->report.ends_with(".json")) return Usage("usage", "--report={}: expected a file ending in .html or .json", Escape(options->report));
  }
  if (has("sarif") && has("json")) return Usage("usage", "--json and --sarif both mean standard output; give one of them");
  if (has("sarif")) options->format = AuditOptions::Format::kSarif;
  if (has("json")) options->format = AuditOptions::Format::kJson;
  options->per_tensor = has("per-tensor");
  options->weights_only = has("weights-only");
  options->json = has("json");
  if (has("follow-links")) options->links = Links::kFollow;
  request.links = options->links;
  request.zeros = options->zeros;
  request.generic = options->generic;
  request.jobs = options->jobs;
  return {};
}

// What is asked for; options that belong to something else are a mistake.
Status ChooseMode(const GivenOptions& given, AuditOptions* options) {
  using Mode = AuditOptions::Mode;
  const auto has = [&](const char* name) { return given.count(name) != 0; };
  struct Choice {
    const char* name;
    Mode mode;
  };
  constexpr Choice kChoices[] = {{"list-findings", Mode::kListFindings}, {"fingerprint", Mode::kFingerprint}, {"forward", Mode::kForward}, {"against", Mode::kAgainst}, {"verify-signature", Mode::kSignature}};
  size_t chosen = 0;
  options->mode = Mode::kAudit;
  for (const Choice& choice : kChoices) {
    if (!has(choice.name)) continue;
    options->mode = choice.mode;
    ++chosen;
  }
  if (chosen > 1) return Usage("usage", "--list-findings, --fingerprint, --forward, --against and --verify-signature are runs of their own");
  struct Needs {
    const char* name;
    Mode mode;
    const char* with;
  };
  constexpr Needs kNeeds[] = {{"per-tensor", Mode::kFingerprint, "--fingerprint"}, {"weights-only", Mode::kAgainst, "--against"}, {"forward-out", Mode::kForward, "--forward"}};
  for (const char* name : {"read-data", "check-manifest", "target", "fail-on", "sarif", "report"}) {
    if (has(name) && options->mode != Mode::kAudit) return Usage("usage", "--{} is of use in an audit only", name);
  }
  if (options->mode == Mode::kListFindings) {
    const std::string format = given["list-findings"].as<std::string>();
    if (format != "text" && format != "markdown") return Usage("usage", "--list-findings={}: expected text or markdown", Escape(format));
    if (format == "markdown") options->format = AuditOptions::Format::kMarkdown;
  }
  for (const Needs& needs : kNeeds) {
    if (has(needs.name) && options->mode != needs.mode) return Usage("usage", "--{} is of use with {} only", needs.name, needs.with);
  }
  return {};
}

}  // namespace

Manual AuditManual() {
  Manual manual{CommonOptions(), FurtherOptions()};
  manual.name = "qwen2-audit";
  manual.summary = "say what is wrong with a checkpoint, who can load it and what would repair it";
  manual.usage = {"qwen2-audit DIR|FILE… [--read-data] [--check-manifest] [--target=NAME] [--json|--sarif] [--report=FILE]", "qwen2-audit DIR --fingerprint | --forward | --against=DIR2", "qwen2-audit --list-findings"};
  manual.about = "Says what is wrong with a checkpoint, what made it, who can load it and what would repair it; changes\n"
                 "nothing and runs nothing. DIR is a folder, a Hub snapshot folder or hf://org/name[@revision] (from the\n"
                 "cache of this machine), FILE a single weight file.\n";
  manual.exit_codes = "0 clean, or the same; 1 findings, or not the same; 2 usage; 3 a check could not be run; 65 input\n"
                      "malformed; 69 unsupported or refused; 70 internal error; 74 input or output failed; 75 try again;\n"
                      "76 no space; 77 permission; 130, 143 interrupted.\n";
  manual.values = {{"target", TargetNames()}, {"fail-on", {"error", "warning"}}, {"zeros", {"v1", "v2"}}, {"arch", {"generic"}}, {"list-findings", {"text", "markdown"}}};
  manual.see_also = {"qwen2-convert(1)", "qwen2-zoo(1)"};
  return manual;
}

Result<AuditOptions> ParseAuditOptions(int argc, const char* const* argv) {
  QC_ASSIGN(const GivenOptions given, ParseOptions(AuditManual().Options(), argc, argv));
  AuditOptions options;
  if (given.count("help") != 0) return options.help = given["help"].as<std::string>(), options;
  if (given.count("version") != 0) return options.mode = AuditOptions::Mode::kVersion, options;
  QC_TRY(ReadOptions(given, &options));
  QC_TRY(ChooseMode(given, &options));
  const std::vector<std::string> paths = TextsOf(given, "paths");
  if (options.mode == AuditOptions::Mode::kListFindings) {
    if (!paths.empty()) return Usage("usage", "--list-findings takes no folder");
    return options;
  }
  if (options.mode == AuditOptions::Mode::kAudit) {
    if (paths.empty() || std::ranges::any_of(paths, &std::string::empty)) return Usage("usage", "expected a folder or a weight file; see --help");
    options.paths = paths;
    return options;
  }
  if (paths.size() != 1 || paths[0].empty()) return Usage("usage", "expected one folder, got {}; see --help", paths.size());
  options.in = paths[0];
  return options;
}

}  // namespace q2c
