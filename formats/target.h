// A target: what one band of loaders wants of a checkpoint. Read from targets/*.json,
// which is compiled in; a new target is a new file there.
#pragma once

#include <string>
#include <vector>

#include "formats/base/json.h"

namespace q2c {

enum class BiasPolicy {
  kArchitecture,       // a linear has a bias exactly where the architecture declares one
  kEveryQuantised,     // every quantised linear has one; zeros where the source has none
};

struct Target {
  std::string name;
  std::string summary;                 // one line for --list-targets
  std::string versions;                // the software it is for
  std::vector<std::string> verified_with;  // "transformers 5.23.0 + … (2026-11-23)"
  BiasPolicy biases = BiasPolicy::kArchitecture;
  std::vector<std::string> layouts;    // in order of preference
  std::vector<std::pair<std::string, std::string>> refuses_architectures;  // model_type, why
};

std::vector<std::string> TargetNames();
// Errors: kUsage "target" with the list of names.
Result<Target> FindTarget(const std::string& name);

// One target that satisfies all of them. Errors: kRefused "target-conflict" naming both sides.
Result<Target> CombineTargets(const std::vector<Target>& targets);

}  // namespace q2c
