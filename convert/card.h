// What people want to know about a converted checkpoint when they find it: CONVERSION.md, how it was made,
// and card.yaml, lines for the front matter of a model card. No README is ever changed.
#pragma once

#include "convert/plan.h"

namespace q2c {

// Adds a note where the input's README.md, which goes along as it is, speaks of a way of quantising that the output no longer has.
Status NoteReadme(Plan* plan);

// `targets` as the user named them; `verified` and `fingerprint` as the report has them, the latter may be empty.
std::string ConversionText(const Plan& plan, const std::vector<std::string>& targets, const std::string& verified, const std::string& fingerprint);

// base_model and quantized_by: as the input's README.md has them, else as the Hub's name of the input says.
Result<std::string> CardText(const Plan& plan);

}  // namespace q2c
