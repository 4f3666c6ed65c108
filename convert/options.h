// The command line of qwen2-convert: parsed to what it says, then checked and turned into
// what the job needs.
#pragma once

#include "convert/job.h"
#include "formats/base/manual.h"

namespace q2c {

struct CommandLine {
  enum class Mode { kConvert, kDryRun, kExplain, kRestore, kListTargets, kListRepairs, kVersion, kHelp };
  Mode mode = Mode::kConvert;
  JobOptions job;
  std::string help;      // its form
  std::string explain;   // the tensor
  bool json = false;
  bool quiet = false;
  bool verbose = false;
};

// Errors: kUsage; kNotRun for a level of verification that does not exist yet.
Result<CommandLine> ParseCommandLine(int argc, const char* const* argv);
Manual ConvertManual();

}  // namespace q2c
