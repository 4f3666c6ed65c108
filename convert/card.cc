#include "convert/card.h"

#include <algorithm>
#include <array>

#include "convert/passes/passes.h"
#include "formats/base/text.h"
#include "formats/manifest.h"

namespace q2c {
namespace {

constexpr std::string_view kReadme = "README.md";

// "" where there is none, or one too long to be read.
Result<std::string> ReadReadme(const Checkpoint& checkpoint) {
  constexpr uint64_t kLimit = 4'000'000;
  const auto found = std::ranges::find(checkpoint.side_files(), kReadme, &SideFile::name);
  if (found == checkpoint.side_files().end() || found->bytes > kLimit) return std::string();
  QC_ASSIGN(const InputFile file, checkpoint.location().OpenMember(std::string(kReadme)));
  return file.ReadAll(kLimit);
}

// A key of the front matter, with the lines that belong to it. "" if it is not there.
std::string FrontMatterKey(std::string_view readme, std::string_view key) {
  const std::vector<std::string_view> lines = Lines(readme);
  std::string found;
  if (lines.empty() || lines.front() != "---") return found;
  for (size_t i = 1; i < lines.size() && lines[i] != "---"; ++i) {
    const bool more = lines[i].starts_with(' ') || lines[i].starts_with('-');
    const bool begins = lines[i].starts_with(key) && lines[i].substr(key.size()).starts_with(':');
    if (begins || (more && !found.empty())) found += fmt::format("{}\n", lines[i]);
    else if (!found.empty()) return found;
  }
  return found;
}

// "org/name" of a snapshot in a Hub cache, or what the config calls itself. "" for neither.
std::string HubName(const Plan& plan) {
  if (std::string name = plan.model->checkpoint->location().HubName(); !name.empty()) return name;
  const Json* name = plan.config.Find("_name_or_path");
  const bool hub = name != nullptr && name->is_string() && std::ranges::count(name->text(), '/') == 1 && !LooksLikeLocalModel(name->text());
  return hub ? name->text() : std::string();
}

std::string Quoted(const std::string& text) { return Json::String(text).Dump(-1); }

// For a cell or a line: no name may begin markup or end the cell. Names are escaped where they come from.
std::string Plain(std::string_view text) {
  std::string plain;
  for (const char c : text) {
    if (c == '|' || c == '`' || c == '<' || c == '*' || c == '[') plain += '\\';
    plain += c;
  }
  return plain;
}

}  // namespace

Status NoteReadme(Plan* plan) {
  constexpr std::array<std::string_view, 4> kMethods = {"gptq", "awq", "gguf", "mlx"};
  const auto& linears = plan->model->linears;
  const auto first = std::ranges::find_if(linears, [](const auto& entry) { return entry.second.quantised(); });
  if (first == linears.end()) return {};
  const std::string_view read = first->second.layout->method;
  if (read == plan->Method() || std::ranges::find(kMethods, read) == kMethods.end()) return {};
  QC_ASSIGN(const std::string readme, ReadReadme(*plan->model->checkpoint));
  if (Lower(readme).find(read) == std::string::npos) return {};
  plan->notes.push_back({"readme-old-layout", fmt::format("{} goes along as it is and speaks of '{}', which the output is not; --card writes what it should say", kReadme, read)});
  return {};
}

std::string ConversionText(const Plan& plan, const std::vector<std::string>& targets, const std::string& verified, const std::string& fingerprint) {
  const std::string from = HubName(plan);
  std::string text = "# How this checkpoint was made\n\n";
  text += fmt::format("Rewritten{} by qwen2-convert {} for {}.\n", from.empty() ? "" : " from " + Plain(Escape(from)), Q2C_VERSION, Join(targets, ", "));
  const Json summary = PlanSummaryJson(plan);
  text += "\n## What was read\n\n";
  for (const Json& line : summary.Find("found")->Find("linears")->items()) text += fmt::format("- {}\n", Plain(line.text()));
  text += fmt::format("\n## What was written\n\nLayout of the linears: {}. Exactness of the tensor that changed most: {}.\n\n| tensors | what was done | why |\n|---|---|---|\n", Plain(Join(plan.LayoutNames(), ", ")), NameOf(plan.Worst()));
  for (const Json& deed : summary.Find("done")->items()) {
    const Json* how = deed.Find("exactness") != nullptr ? deed.Find("exactness") : deed.Find("why");
    text += fmt::format("| {} | {} ({}) | {} |\n", deed.Find("tensors")->AsU64().value_or(0), Plain(deed.Find("action")->text()), Plain(how->text()), Plain(deed.Find("reason")->text()));
  }
  if (!plan.edits.empty()) text += "\n";
  for (const ConfigEdit& edit : plan.edits) text += fmt::format("- `{}`{}: {}\n", edit.file, edit.key.empty() ? "" : ", key " + Plain(Escape(edit.key)), Plain(edit.reason));
  if (!plan.notes.empty()) text += "\n## Notes\n\n";
  for (const Note& note : plan.notes) text += fmt::format("- {}\n", Plain(note.message));
  text += fmt::format("\n## Proof\n\n{}.\n", verified);
  if (!fingerprint.empty()) text += fmt::format("\nFingerprint of the values, whatever the layout: `{}`\n", fingerprint);
  text += fmt::format("\nTo check the files: `sha256sum -c {}`. To check what they hold: `qwen2-audit --read-data .`\n", kSumsName);
  return text;
}

Result<std::string> CardText(const Plan& plan) {
  QC_ASSIGN(const std::string readme, ReadReadme(*plan.model->checkpoint));
  const std::string hub = HubName(plan);
  std::string text = "# For the front matter of a model card.\n";
  std::string base = FrontMatterKey(readme, "base_model");
  if (base.empty() && !hub.empty()) base = fmt::format("base_model: {}\n", Quoted(hub));
  text += base.empty() ? "# base_model: nothing in the input says which model this was\n" : base;
  if (!base.empty()) text += "base_model_relation: quantized\n";
  std::string by = FrontMatterKey(readme, "quantized_by");
  if (by.empty() && !hub.empty()) by = fmt::format("quantized_by: {}\n", Quoted(hub.substr(0, hub.find('/'))));
  text += by.empty() ? "# quantized_by: nothing in the input says who quantised it\n" : by;
  return text;
}

}  // namespace q2c
