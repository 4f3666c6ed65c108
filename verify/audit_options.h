// The command line of qwen2-audit.
#pragma once

#include <string>
#include <vector>

#include "formats/base/manual.h"
#include "formats/location.h"
#include "verify/audit.h"
#include "verify/forward.h"

namespace q2c {

struct AuditOptions {
  enum class Mode { kAudit, kListFindings, kFingerprint, kForward, kAgainst, kSignature, kVersion, kHelp };
  enum class Format { kText, kJson, kSarif, kMarkdown };
  Mode mode = Mode::kHelp;
  std::string help;              // its form
  std::string in;                // of the runs that take one folder
  std::vector<std::string> paths;  // of an audit
  std::string against;
  std::string public_key;        // of --verify-signature, or empty
  bool per_tensor = false;
  bool weights_only = false;
  bool json = false;
  Format format = Format::kText;
  AuditRequest request;
  Severity fail_on = Severity::kWarning;
  std::string report;           // a file ending in .html or .json, or empty
  Tokens tokens;                // empty: `spread_tokens` over the vocabulary
  uint64_t spread_tokens = 16;
  std::string forward_out;      // a safetensors file, or empty
  std::optional<ZeroConvention> zeros;
  bool generic = false;  // take a model whose architecture is not known as it is
  Links links = Links::kRefuse;
  unsigned jobs = 1;
};

// Errors: kUsage.
Result<AuditOptions> ParseAuditOptions(int argc, const char* const* argv);
Manual AuditManual();

}  // namespace q2c
