// The plan of a zoo: a file of lines, the first about the whole, each other about one model.
// The format is described in zoo.md.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "convert/job.h"

namespace q2c {

struct ZooModel {
  size_t line = 0;                   // in the plan
  std::string in;                    // below the root
  std::string out;                   // below the folder of outputs
  std::string identity;              // zoo_find.h
  uint64_t bytes = 0;
  uint64_t output_bytes = 0;
  double seconds = 0;                // expected
  std::vector<std::string> options;  // of qwen2-convert, as on its command line
  std::optional<Error> refused;      // then there is no output to expect
  bool generic = false;              // of no known architecture: taken as it is

  // What the journals know it by: changes with everything that may change the output.
  std::string Unit() const;
};

struct ZooPlan {
  std::string path;
  std::string root;  // absolute
  std::string out;   // absolute
  std::vector<ZooModel> models;   // in the order of the plan; those of bad lines are left out
  std::vector<Error> bad_lines;

  std::string Folder() const { return path + ".d"; }  // of journals, leases and reports
};

std::string PlanHeadLine(const ZooPlan& plan);
std::string PlanLine(const ZooModel& model);

// Errors: kMalformed "zoo-plan", kRefused "zoo-plan-version", kUsage "output-input" for a plan that
// cannot be used at all. A line that cannot be used goes to bad_lines: paths that leave the root or
// the folder of outputs, options that are none, an output that another line has, too.
Result<ZooPlan> ReadZooPlan(const std::string& path);
Result<ZooModel> ParsePlanLine(std::string_view line);

// The options of qwen2-convert that a plan may hold: those that decide what the output is and how
// it is verified.
struct ZooPlanOption {
  std::string_view name;  // without the dashes
  bool has_value;
};
inline constexpr ZooPlanOption kZooPlanOptions[] = {{"target", true}, {"layout", true}, {"shard-size", true}, {"drop", true}, {"arch", true}, {"zeros", true}, {"only", true}, {"skip", true},
                                                    {"verify", true}, {"tokens", true}, {"verify-tokens", true}, {"verify-read", true}, {"group-size", true}, {"pad-intermediate", true}, {"allow-rounding", false}, {"text-only", false}, {"undo", false}, {"follow-links", false}};
std::string ZooPlanOptionNames();  // "--target, --layout, …"
// Errors: kUsage.
Status CheckZooOptions(const std::vector<std::string>& options);
// What qwen2-convert would do with these arguments. Errors: kUsage, kNotRun.
Result<JobOptions> ZooJob(const std::string& in, const std::string& out, const std::vector<std::string>& options);

// kUsage "output-input" if one of the folders lies in the other. `out` need not exist.
Status CheckApart(const std::string& root, const std::string& out);

}  // namespace q2c
