// The command line of qwen2-audit.
#pragma once

#include <string>

#include "formats/location.h"
#include "verify/forward.h"

namespace q2c {

struct AuditOptions {
  enum class Mode { kFingerprint, kForward, kAgainst, kVersion, kHelp };
  Mode mode = Mode::kHelp;
  std::string in;
  std::string against;
  bool per_tensor = false;
  bool weights_only = false;
  bool json = false;
  Tokens tokens;                // empty: `spread_tokens` over the vocabulary
  uint64_t spread_tokens = 16;
  std::string forward_out;      // a safetensors file, or empty
  std::optional<ZeroConvention> zeros;
  Links links = Links::kRefuse;
  unsigned jobs = 1;
};

// Errors: kUsage.
Result<AuditOptions> ParseAuditOptions(int argc, const char* const* argv);
std::string AuditHelp();

}  // namespace q2c
