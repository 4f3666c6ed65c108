// A conversion of a test's model, verified.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "convert/job.h"

namespace q2c::test {

// Converts anew, expects every check to be content, and returns the tensors of the output.
std::map<std::string, std::vector<std::byte>> Converted(const JobOptions& options);

}  // namespace q2c::test
