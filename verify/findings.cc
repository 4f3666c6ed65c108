#include "verify/findings.h"

#include <algorithm>
#include <tuple>

#include "formats/base/text.h"

namespace q2c {
namespace {

// The names in "tensor 'x'" and "linear 'x'".
std::vector<std::string> NamesIn(std::string_view message) {
  std::vector<std::string> names;
  for (const std::string_view word : {"tensor '", "linear '", "tensors '"}) {
    for (size_t at = message.find(word); at != std::string_view::npos && names.size() < 8; at = message.find(word, at + 1)) {
      const size_t begin = at + word.size();
      const size_t end = message.find('\'', begin);
      if (end == std::string_view::npos) break;
      std::string name(message.substr(begin, end - begin));
      if (std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
    }
  }
  return names;
}

std::string_view ExitText(Code code) { return code == Code::kFindings ? "1" : code == Code::kMalformed ? "65" : code == Code::kRefused ? "69" : code == Code::kIo ? "74" : "77"; }

}  // namespace

std::string_view NameOf(Severity severity) { return severity == Severity::kNote ? "note" : severity == Severity::kWarning ? "warning" : "error"; }

const FindingKind* FindKind(std::string_view id) {
  const std::span<const FindingKind> kinds = FindingKinds();
  const auto found = std::ranges::lower_bound(kinds, id, {}, &FindingKind::id);
  return found != kinds.end() && found->id == id ? &*found : nullptr;
}

void Findings::Add(std::string_view id, std::string message, std::vector<std::string> tensors, uint64_t count) {
  const FindingKind* kind = FindKind(id);
  if (kind == nullptr) kind = FindKind("unreadable");
  auto [often, fresh] = seen_.emplace(std::string(kind->id), 0);
  if (++often->second > kKept) return;
  if (!tensors.empty()) count = std::max<uint64_t>(count, tensors.size());
  if (tensors.size() > kNames) tensors.resize(kNames);
  findings_.push_back({kind, std::move(tensors), count, std::move(message)});
}

void Findings::Add(const Error& error) {
  const bool known = FindKind(error.id) != nullptr;
  Add(error.id, known ? error.message : error.Text(), NamesIn(error.message));
}

std::vector<Finding> Findings::Sorted() const {
  std::vector<Finding> sorted = findings_;
  std::ranges::stable_sort(sorted, [](const Finding& a, const Finding& b) { return std::tuple(-static_cast<int>(a.kind->severity), a.kind->id) < std::tuple(-static_cast<int>(b.kind->severity), b.kind->id); });
  for (size_t i = 0; i < sorted.size(); ++i) {
    const uint64_t often = seen_.at(std::string(sorted[i].kind->id));
    const bool last = i + 1 == sorted.size() || sorted[i + 1].kind != sorted[i].kind;
    if (last && often > kKept) sorted[i].message += fmt::format("; and {} more of this kind", often - kKept);
  }
  return sorted;
}

Code ExitCode(const std::vector<Finding>& findings, Severity fail_on) {
  // What could not be read weighs most: it hides what else there is.
  constexpr Code kOrder[] = {Code::kIo, Code::kPermission, Code::kMalformed, Code::kFindings, Code::kRefused};
  for (const Code code : kOrder) {
    const auto counts = [&](const Finding& finding) { return finding.kind->code == code && finding.kind->severity >= fail_on && finding.kind->severity > Severity::kNote; };
    if (std::ranges::any_of(findings, counts)) return code;
  }
  return Code::kOk;
}

std::string ShellWord(std::string_view word) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+=,";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string_view::npos) return std::string(word);
  // What a terminal could take for a command is written as a number.
  const bool printable = Escape(word, SIZE_MAX).size() == word.size() + 3 * static_cast<size_t>(std::ranges::count(word, '\''));
  std::string quoted = printable ? "'" : "$'";
  for (const char c : word) {
    const bool plain = kPlain.find(c) != std::string_view::npos;
    if (c == '\'' && printable) quoted += "'\\''";
    else if (printable || plain) quoted += c;
    else quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return quoted + "'";
}

std::string FixText(const FindingKind& kind, const FixWords& words) {
  std::string text;
  std::string_view rest = kind.fix;
  while (!rest.empty()) {
    const size_t open = rest.find('{');
    text += rest.substr(0, open);
    if (open == std::string_view::npos) break;
    rest.remove_prefix(open);
    const size_t close = rest.find('}');
    const std::string_view word = rest.substr(1, close - 1);
    text += word == "in" ? words.in : word == "out" ? words.out : words.target;
    rest.remove_prefix(close + 1);
  }
  return text;
}

std::string FindingsText() {
  std::string text;
  for (const FindingKind& kind : FindingKinds()) text += fmt::format("{} ({}, exit {})\n  {}\n  fix: {}\n", kind.id, NameOf(kind.severity), ExitText(kind.code), kind.meaning, FixText(kind, {"IN", "OUT", "TARGET"}));
  return text;
}

Json FindingsTableJson() {
  Json list = Json::Array();
  for (const FindingKind& kind : FindingKinds()) {
    list.items().push_back(Json::Object({{"id", Json::String(kind.id)}, {"severity", Json::String(NameOf(kind.severity))}, {"exit", Json::Integer(static_cast<int>(kind.code))},
                                         {"meaning", Json::String(kind.meaning)}, {"fix", Json::String(FixText(kind, {"IN", "OUT", "TARGET"}))}}));
  }
  return Json::Object({{"schema", Json::Integer(1)}, {"findings", std::move(list)}});
}

std::string FindingsMarkdown() {
  std::string text =
      "# Findings\n\n"
      "What `qwen2-audit` may say, by id. This page is the table of `verify/findings_table.cc`; a test holds one against the other\n"
      "(`qwen2-audit --list-findings=markdown` writes it). Exit is what the audit ends with where this is the worst that counts:\n"
      "notes never do, warnings unless `--fail-on=error`.\n\n"
      "| id | severity | exit | meaning | what to do |\n|---|---|---|---|---|\n";
  for (const FindingKind& kind : FindingKinds()) text += fmt::format("| `{}` | {} | {} | {} | {} |\n", kind.id, NameOf(kind.severity), ExitText(kind.code), kind.meaning, FixText(kind, {"IN", "OUT", "TARGET"}));
  return text;
}

}  // namespace q2c
