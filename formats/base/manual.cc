#include "formats/base/manual.h"

#include <algorithm>
#include <sstream>

#include "formats/base/text.h"

namespace q2c {
namespace {

// One option, as shells and man want it.
struct Entry {
  std::string name;   // without dashes
  std::string letter; // or empty
  std::string value;  // what it takes, or empty
  bool may_be_alone = false;  // the value may be left out
  std::string text;
};

std::vector<Entry> Entries(const Manual& manual) {
  std::vector<Entry> entries;
  const OptionTable all = manual.Options();  // whose entries it shares
  for (const auto& option : all.options()) {
    Entry entry;
    entry.name = option->long_name();
    const std::string letter = option->canonical_display_name(boost::program_options::command_line_style::allow_dash_for_short);
    if (letter.size() == 2 && letter[0] == '-') entry.letter = letter;
    entry.text = option->description();
    if (option->semantic()->max_tokens() > 0) {
      entry.may_be_alone = option->semantic()->min_tokens() == 0;
      entry.value = option->semantic()->name();
      // "[=NAME(=implied)]" of an optional one
      if (const size_t open = entry.value.find("(="); open != std::string::npos) entry.value = entry.value.substr(2, open - 2);
    }
    entries.push_back(entry);
  }
  return entries;
}

std::string Replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

std::string Help(const Manual& manual, bool everything) {
  std::ostringstream out;
  out << Join(manual.usage, "\n") << "\n\n" << manual.about << "\n";
  for (const auto& [command, text] : manual.commands) out << fmt::format("  {:<8}{}\n", command, text);
  if (!manual.commands.empty()) out << "\n";
  out << manual.common;
  const bool has_more = !manual.further.options().empty();
  if (has_more && everything) out << "\n" << manual.further;
  if (has_more && !everything) out << "\nFurther options: " << manual.name << " --help=all\n";
  if (everything && !manual.notes.empty()) out << "\n" << manual.notes;
  out << "\nExit codes: " << manual.exit_codes;
  return out.str();
}

std::string Roff(std::string text) {
  text = Replaced(std::move(text), "\\", "\\e");
  text = Replaced(std::move(text), "-", "\\-");
  text = Replaced(std::move(text), "…", "...");
  // A line that begins with a dot or a quote would be a request.
  if (text.starts_with('.') || text.starts_with('\'')) text.insert(0, "\\&");
  return Replaced(Replaced(std::move(text), "\n.", "\n\\&."), "\n'", "\n\\&'");
}

std::string Man(const Manual& manual) {
  std::string upper = manual.name;
  std::ranges::transform(upper, upper.begin(), [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  std::string page = fmt::format(".TH {} 1 \"\" \"qwen2-convert {}\"\n.SH NAME\n{} \\- {}\n.SH SYNOPSIS\n.nf\n", upper, Q2C_VERSION, Roff(manual.name), Roff(manual.summary));
  for (const std::string& form : manual.usage) page += Roff(form) + "\n";
  page += ".fi\n.SH DESCRIPTION\n";
  page += Replaced(Roff(manual.about), "\n\n", "\n.PP\n");
  if (!manual.commands.empty()) page += ".SH COMMANDS\n";
  for (const auto& [command, text] : manual.commands) page += ".TP\n\\fB" + command + "\\fR\n" + Roff(text) + "\n";
  page += ".SH OPTIONS\n";
  for (const Entry& entry : Entries(manual)) {
    page += ".TP\n\\fB" + Roff("--" + entry.name) + "\\fR";
    if (!entry.value.empty()) page += entry.may_be_alone ? "[=\\fI" + Roff(entry.value) + "\\fR]" : "=\\fI" + Roff(entry.value) + "\\fR";
    if (!entry.letter.empty()) page += ", \\fB" + Roff(entry.letter) + "\\fR";
    page += "\n" + Roff(entry.text) + "\n";
  }
  if (!manual.notes.empty()) page += ".SH NOTES\n.nf\n" + Roff(manual.notes) + ".fi\n";
  page += ".SH EXIT STATUS\n";
  std::string codes = Replaced(manual.exit_codes, "\n", " ");
  if (codes.ends_with(' ')) codes.pop_back();
  if (codes.ends_with('.')) codes.pop_back();
  for (size_t begin = 0; begin < codes.size();) {
    const size_t end = std::min(codes.find("; ", begin), codes.size());
    const std::string one = codes.substr(begin, end - begin);
    // "130, 143 interrupted"
    const size_t words = one.find_first_not_of("0123456789, ");
    page += ".TP\n" + one.substr(0, words - 1) + "\n" + Roff(one.substr(words)) + "\n";
    begin = end + 2;
  }
  page += ".SH SEE ALSO\n" + Join(manual.see_also, ", ") + "\n";
  return page;
}

std::string CommandNames(const Manual& manual) {
  std::vector<std::string> names;
  for (const auto& [command, text] : manual.commands) names.push_back(command);
  return Join(names, " ");
}

// The values of an option in one line, or nothing.
std::string Values(const Manual& manual, const Entry& entry) {
  const auto found = manual.values.find(entry.name);
  return found == manual.values.end() ? std::string() : Join(found->second, " ");
}

std::string Bash(const Manual& manual) {
  const std::string function = "_" + Replaced(manual.name, "-", "_");
  std::string options;
  std::string values;
  std::string files;
  for (const Entry& entry : Entries(manual)) {
    options += (options.empty() ? "--" : " --") + entry.name + (entry.value.empty() || entry.may_be_alone ? "" : "=");
    const std::string choice = Values(manual, entry);
    if (!choice.empty()) values += fmt::format("    --{}) COMPREPLY=($(compgen -W \"{}\" -- \"$cur\")); return ;;\n", entry.name, choice);
    else if (!entry.value.empty()) files += (files.empty() ? "--" : "|--") + entry.name;
  }
  std::string commands;
  if (!manual.commands.empty()) {
    commands = fmt::format("  if [[ $COMP_CWORD -eq 1 && \"$cur\" != -* ]]; then COMPREPLY=($(compgen -W \"{}\" -- \"$cur\")); return; fi\n", CommandNames(manual));
  }
  return fmt::format(
      "# bash completion for {0}\n"
      "{1}() {{\n"
      "  local cur=\"${{COMP_WORDS[COMP_CWORD]}}\" option=\"${{COMP_WORDS[COMP_CWORD-1]}}\"\n"
      "  # bash takes --option=value for three words\n"
      "  if [[ \"$cur\" == \"=\" ]]; then cur=\"\"; elif [[ \"$option\" == \"=\" ]]; then option=\"${{COMP_WORDS[COMP_CWORD-2]}}\"; else option=\"\"; fi\n"
      "  case \"$option\" in\n{2}    {3}) compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n  esac\n"
      "{4}"
      "  if [[ \"$cur\" == -* ]]; then\n"
      "    COMPREPLY=($(compgen -W \"{5}\" -- \"$cur\"))\n"
      "    [[ ${{#COMPREPLY[@]}} -eq 1 && \"${{COMPREPLY[0]}}\" == *= ]] && compopt -o nospace\n"
      "    return\n"
      "  fi\n"
      "  compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\"))\n"
      "}}\n"
      "complete -F {1} {0}\n",
      manual.name, function, values, files, commands, options);
}

// Between single quotes of a shell.
std::string Quoted(const std::string& text) { return Replaced(text, "'", "'\\''"); }

std::string Zsh(const Manual& manual) {
  std::string out = fmt::format("#compdef {}\n_arguments \\\n", manual.name);
  for (const Entry& entry : Entries(manual)) {
    const std::string text = Replaced(Replaced(Replaced(Quoted(entry.text), "[", "("), "]", ")"), ":", "\\:");
    const std::string choice = Values(manual, entry);
    const std::string argument = entry.value.empty() ? "" : ":" + entry.value + ":" + (choice.empty() ? "_files" : "(" + choice + ")");
    out += fmt::format("  '*--{}{}[{}]{}' \\\n", entry.name, entry.value.empty() ? "" : entry.may_be_alone ? "=-" : "=", text, entry.may_be_alone && !argument.empty() ? ":" + argument : argument);
  }
  if (!manual.commands.empty()) out += fmt::format("  '1:command:({})' \\\n", CommandNames(manual));
  return out + "  '*:path:_files'\n";
}

std::string Fish(const Manual& manual) {
  std::string out;
  if (!manual.commands.empty()) out += fmt::format("complete -c {} -n __fish_is_first_arg -f -a '{}'\n", manual.name, CommandNames(manual));
  for (const Entry& entry : Entries(manual)) {
    const std::string choice = Values(manual, entry);
    out += fmt::format("complete -c {} -l {}{}{} -d '{}'\n", manual.name, entry.name, entry.letter.empty() ? "" : " -s " + entry.letter.substr(1),
                       choice.empty() ? entry.value.empty() || entry.may_be_alone ? "" : " -r" : " -x -a '" + choice + "'", Replaced(Quoted(entry.text), "'\\''", "\\'"));
  }
  return out;
}

}  // namespace

OptionTable Manual::Options() const {
  OptionTable all = NewOptionTable();
  for (const OptionTable* table : {&common, &further}) {
    for (const auto& option : table->options()) all.add(option);
  }
  return all;
}

boost::program_options::typed_value<std::string>* HelpValue() { return TextValue("FORM")->implicit_value(""); }

Result<std::string> ManualAs(const Manual& manual, const std::string& form) {
  if (form.empty()) return Help(manual, false);
  if (form == "all") return Help(manual, true);
  if (form == "man") return Man(manual);
  if (form == "bash") return Bash(manual);
  if (form == "zsh") return Zsh(manual);
  if (form == "fish") return Fish(manual);
  return Usage("usage", "--help={}: expected all, man, bash, zsh or fish", Escape(form));
}

}  // namespace q2c
