// What only the data of a model show, beyond names and shapes: the group maps, the zero
// points and their convention, scales that are no numbers.
#pragma once

#include "formats/model.h"

namespace q2c {

// Fills in traits.act_order. Errors: kMalformed "g-idx", "g-idx-missing".
Status ReadGroups(const Model& model, const std::string& name, Linear* linear);

// Checks the scales, decides between GPTQ v1 and v2 and fills in the traits of every linear.
// Errors: kMalformed "scale-not-finite"; kRefused "zeros-undecided", "quant-offset".
Status SettleZeros(const ModelOptions& options, Model* model);

}  // namespace q2c
