// A folder against its model.sig: who signed it, and is it still what was signed?
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "formats/base/file.h"

namespace q2c {

struct SignatureOptions {
  std::string public_key;  // a PEM file; empty: the files are checked, and nobody knows who signed
  Links links = Links::kRefuse;
  unsigned jobs = 1;
  std::function<Status()> check_stop;
};

struct SignatureReport {
  std::string key_hint;
  uint64_t files = 0;           // that are as they were signed
  std::vector<Error> findings;  // kFindings: "signature-key", "signature-forged", "signature-file-changed", "-missing", "-extra"
};

// Errors: kNotRun "no-signature" where there is none; those of reading keys and signatures.
Result<SignatureReport> VerifyModelSignature(const std::string& folder, const SignatureOptions& options);

}  // namespace q2c
