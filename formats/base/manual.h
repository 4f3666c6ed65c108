// What a program says of itself, written once: --help, the page for man and the completions of
// shells are all made from it, so that none of them can say anything else.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "formats/base/command_line.h"

namespace q2c {

struct Manual {
  Manual(OptionTable common_options, OptionTable further_options) : common(std::move(common_options)), further(std::move(further_options)) {}

  OptionTable common;               // what fits a screen
  OptionTable further;
  std::string name;
  std::string summary;              // half a line
  std::vector<std::string> usage;   // one form a line
  std::string about;                // paragraphs, lines at most 100 characters long
  std::string notes;                // behind the options
  std::string exit_codes;           // "0 done; 1 …", in lines
  std::vector<std::pair<std::string, std::string>> commands;  // the first word, where a program has some, and what it does
  std::map<std::string, std::vector<std::string>> values;   // of options that have a fixed choice
  std::vector<std::string> see_also;                        // "qwen2-audit(1)"

  OptionTable Options() const;  // all of them
};

// --help, and what else it can print.
inline constexpr const char* kHelpText = "print this help; --help=all: with every option; man, bash, zsh, fish: the manual page, completions";
boost::program_options::typed_value<std::string>* HelpValue();
// `form` is the value of --help. Errors: kUsage.
Result<std::string> ManualAs(const Manual& manual, const std::string& form);

}  // namespace q2c
