// What the command lines of the programs have in common: nothing may be abbreviated, since scripts
// would come to depend on it; words without a name are paths; numbers are whole and have bounds.
// Each program's own table says the rest.
#pragma once

#include <boost/program_options.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "formats/base/status.h"

namespace q2c {

using OptionTable = boost::program_options::options_description;
using GivenOptions = boost::program_options::variables_map;

// An empty table, as wide as --help is printed.
OptionTable NewOptionTable(const char* caption = "Options");
// The value of an option, and of one that may be repeated.
boost::program_options::typed_value<std::string>* TextValue(const char* name);
boost::program_options::typed_value<std::vector<std::string>>* ListValue(const char* name);

// The options that were given; the other words go under "paths". Errors: kUsage "usage".
Result<GivenOptions> ParseOptions(OptionTable options, int argc, const char* const* argv);

// The values of an option that may be repeated, in order; none if it was not given.
std::vector<std::string> TextsOf(const GivenOptions& given, const char* name);
// The value of an option that was given. Errors: kUsage "usage".
Result<uint64_t> NumberOf(const GivenOptions& given, const char* name, uint64_t least, uint64_t most);
// --jobs, or one a processor. Errors: kUsage "usage".
Result<unsigned> JobsOf(const GivenOptions& given);

}  // namespace q2c
