#include "formats/base/command_line.h"

#include <algorithm>
#include <thread>

#include "formats/base/json.h"
#include "formats/base/text.h"

namespace q2c {

namespace po = boost::program_options;

OptionTable NewOptionTable(const char* caption) {
  constexpr unsigned kColumns = 110;
  constexpr unsigned kText = 70;
  return OptionTable(caption, kColumns, kText);
}

po::typed_value<std::string>* TextValue(const char* name) { return po::value<std::string>()->value_name(name); }
po::typed_value<std::vector<std::string>>* ListValue(const char* name) { return po::value<std::vector<std::string>>()->value_name(name); }

Result<GivenOptions> ParseOptions(OptionTable options, int argc, const char* const* argv) {
  options.add_options()("paths", po::value<std::vector<std::string>>());
  po::positional_options_description positional;
  positional.add("paths", -1);
  GivenOptions given;
  try {
    const int style = po::command_line_style::default_style & ~po::command_line_style::allow_guessing;
    po::store(po::command_line_parser(argc, argv).options(options).positional(positional).style(style).run(), given);
  } catch (const po::error& error) {
    return Usage("usage", "{}; see --help", Escape(error.what()));
  }
  return given;
}

std::vector<std::string> TextsOf(const GivenOptions& given, const char* name) {
  return given.count(name) != 0 ? given[name].as<std::vector<std::string>>() : std::vector<std::string>();
}

Result<uint64_t> NumberOf(const GivenOptions& given, const char* name, uint64_t least, uint64_t most) {
  const auto text = given[name].as<std::string>();
  const std::optional<uint64_t> number = Json::Number(text).AsU64();
  if (!number.has_value() || *number < least || *number > most) return Usage("usage", "--{}={}: expected a number from {} to {}", name, Escape(text), least, most);
  return *number;
}

Result<unsigned> JobsOf(const GivenOptions& given) {
  constexpr uint64_t kMost = 256;
  if (given.count("jobs") == 0) return std::max(1U, std::thread::hardware_concurrency());
  QC_ASSIGN(const uint64_t jobs, NumberOf(given, "jobs", 1, kMost));
  return static_cast<unsigned>(jobs);
}

}  // namespace q2c
