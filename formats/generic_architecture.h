// The architecture of a model that no file in architectures/ describes (--arch=generic): made from
// the tensors of the checkpoint itself. It knows which of them make up linears, and nothing of what
// these are for: every name is canonical, every tensor belongs, every bias that is stored is wanted.
#pragma once

#include <string>
#include <vector>

#include "formats/architecture.h"
#include "formats/checkpoint.h"
#include "formats/quant_config.h"

namespace q2c {

Architecture GenericArchitecture(const std::string& model_type);

// What the checkpoint holds, without the tensors that `drop` (globs) leaves out. X.qweight and its
// kin are a quantised linear X, X.weight of two dimensions is a float one, anything else a tensor as
// it is. `layers` counts the repeated blocks that linears lie in.
// Errors: kRefused "layout" for quantisations that are not read, and for linears whose parts do not
// show their size; kRefused "architecture" for GGUF, whose names only an architecture can translate.
Result<Skeleton> GenericSkeleton(const Checkpoint& checkpoint, const std::optional<QuantConfig>& quant, const std::vector<std::string>& drop);

}  // namespace q2c
