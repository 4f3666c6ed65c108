// The command line of qwen2-zoo.
#pragma once

#include <string>
#include <vector>

#include "convert/zoo_find.h"
#include "convert/zoo_run.h"
#include "formats/base/manual.h"

namespace q2c {

struct ZooCommand {
  enum class Mode { kPlan, kRun, kStatus, kReport, kVerify, kRetry, kVersion, kHelp };
  Mode mode = Mode::kHelp;
  std::string help;      // its form
  std::string root;      // plan
  std::string out;
  FindOptions find;
  std::string plan;      // all others
  ZooRunOptions run;     // --jobs and --leases are those of the others, too
  bool json = false;
  std::string html;      // where to write it
  std::vector<std::string> only;  // findings to retry; none: all
};

// Errors: kUsage.
Result<ZooCommand> ParseZooCommand(int argc, const char* const* argv);
Manual ZooManual();

}  // namespace q2c
