// provenance.intoto.json: where an output comes from, as an in-toto statement with SLSA provenance v1.
// It holds no time, host or thread count, so that the same conversion gives the same bytes.
#pragma once

#include "convert/plan.h"
#include "formats/manifest.h"

namespace q2c {

// `options`: as the manifest has them. Reads every file of the input once, `jobs` at a time, for its
// digest. Errors: those of reading.
Result<std::string> WriteProvenance(const Plan& plan, const Manifest& manifest, const std::vector<ManifestFile>& written, unsigned jobs);

}  // namespace q2c
