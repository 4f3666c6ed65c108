// model.sig: the signature of a folder as OpenSSF model signing 1.0 has it. A Sigstore bundle around
// a DSSE envelope around an in-toto statement that lists the SHA-256 of every file.
//
// Source of the format: ossf/model-signing-spec spec/v1.0.md; tried with model_signing 1.1.1.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "formats/base/ec_key.h"
#include "formats/manifest.h"

namespace q2c {

struct SignedFile {
  std::string name;    // below the folder, with '/'
  std::string sha256;  // hex
};

struct ModelSignature {
  std::vector<SignedFile> files;
  std::vector<std::string> ignored;  // paths that are not signed
  std::string key_hint;              // of the key; empty in old bundles
  std::string signed_text;           // what the signature is over
  std::string signature;

  bool IsBy(const EcKey& key) const { return key.Verify(signed_text, signature); }
};

// `name` of the model is informative. The files are sorted here. Errors: those of the key.
Result<std::string> WriteModelSignature(const std::string& name, std::vector<SignedFile> files, const EcKey& key);
// Errors: kMalformed "signature" for what is no such bundle, or contradicts itself; kRefused
// "signature-version" for one of another version, or of digests that are not SHA-256 of whole files.
Result<ModelSignature> ReadModelSignature(std::string_view text);

}  // namespace q2c
