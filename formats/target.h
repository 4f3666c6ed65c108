// A target: what one band of loaders wants of a checkpoint. Read from targets/*.json,
// which is compiled in; a new target is a new file there.
#pragma once

#include <string>
#include <vector>

#include "formats/base/json.h"
#include "formats/layouts/layout.h"

namespace q2c {

enum class BiasPolicy {
  kArchitecture,       // a linear has a bias exactly where the architecture declares one
  kEveryQuantised,     // every quantised linear has one; zeros where the source has none
};

enum class Container { kSafetensors, kGguf };

// How linears of one output may differ for the loaders of a layout.
enum class PerModule {
  kNone,      // one setting for all, and lists of modules that are the same in every layer
  kFloats,    // single ones may be float
  kSettings,  // so may be bits and group sizes
};

// A layout that the loaders take, and which of its linears.
struct LayoutRule {
  const Layout* layout = nullptr;
  std::vector<uint32_t> bits;          // empty: all that the layout holds
  std::vector<uint64_t> group_sizes;   // empty: all; 0: one group
  bool asymmetric = true;
  bool act_order = true;
  bool on_request = false;             // only where --layout names it
  PerModule per_module = PerModule::kNone;

  // Why the loaders cannot take this linear so, apart from its group size; nothing if they can.
  std::optional<std::string> Refuses(const QuantTraits& traits) const;
};

// The type in which float tensors of one kind are written.
struct FloatRule {
  enum class Kind { kAll, kVectors, kRouters, kMatrices };
  Kind kind = Kind::kAll;
  Dtype dtype = Dtype::kF32;
  bool only_if_rounding = false;  // applies where the user allows rounding
};

struct Target {
  std::string name;
  std::string summary;                 // one line for --list-targets
  std::string versions;                // the software it is for
  std::vector<std::string> verified_with;  // "transformers 5.23.0 + … (2026-11-23)"
  BiasPolicy biases = BiasPolicy::kArchitecture;
  std::vector<LayoutRule> layouts;     // in order of preference
  bool mixed_layouts = false;          // each linear takes the first that holds it; else all take the same
  Container container = Container::kSafetensors;
  std::string metadata_format = "pt";  // of a safetensors file
  std::optional<Dtype> scales;         // the type of the scales that the loaders compute in; none: any
  bool quantised_head = false;         // its loaders read a quantised lm_head
  std::vector<FloatRule> floats;       // the first that fits; none: as they are
  std::string warning;                 // said with every plan
  std::vector<std::pair<std::string, std::string>> refuses_architectures;  // model_type, why
  // Of biases that a key of the config declares: model_type, the last words of the linears where the loaders read one.
  std::vector<std::pair<std::string, std::vector<std::string>>> declared_biases;

  // Why its loaders cannot take models of this type at all; nothing if they can.
  const std::string* RefusesArchitecture(std::string_view model_type) const;
  // Do its loaders read a bias that the config declares there? All, unless declared_biases says otherwise.
  bool ReadsDeclaredBias(std::string_view model_type, std::string_view linear) const;
};

std::vector<std::string> TargetNames();
// Errors: kUsage "target" with the list of names.
Result<Target> FindTarget(const std::string& name);

// One target that satisfies all of them. Errors: kRefused "target-conflict" naming both sides.
Result<Target> CombineTargets(const std::vector<Target>& targets);

// The target with no other layout than the named one. Errors: kUsage "layout".
Result<Target> WithLayout(Target target, const std::string& layout);

}  // namespace q2c
