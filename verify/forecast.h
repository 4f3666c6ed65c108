// Which loader will open a checkpoint, and what it will make of it. The loaders and their rules
// are data (formats/loaders/*.json, compiled in); this is the engine that applies them to facts.
#pragma once

#include <string>
#include <vector>

#include "formats/base/json.h"
#include "formats/base/status.h"

namespace q2c {

// "clean", "reports", "wrong", "refuses", "unknown".
struct Forecast {
  std::string loader;   // "t4.57"
  std::string verdict;
  std::string reason;
  std::string target;   // of qwen2-convert, whose output this loader opens
  std::vector<std::string> verified_with;
};

// The loaders, in the order in which they are shown.
std::vector<std::string> LoaderNames();

// A rule applies if every fact it names has one of the values it names: a value, a list of
// values, {"above": n} or {"below": n}; "not" holds facts that must not all be so. A fact that is
// a list has all its values. The first rule that applies decides.
// Errors: kInternal for data that is not as it should be.
Result<Forecast> ForecastFor(const std::string& loader, const Json& facts);
Result<std::vector<Forecast>> ForecastAll(const Json& facts);

}  // namespace q2c
