// Makes bytes of an output tensor that are not the input's own: parts of linears in another
// layout, floats in another dtype.
#pragma once

#include "convert/plan.h"

namespace q2c {

// Bytes of the smallest part of the tensor that can be made by itself; any multiple can.
uint64_t UnitBytes(const Plan& plan, const PlannedTensor& tensor);

// Fills `out` with the tensor's bytes from byte `from`, a multiple of its unit.
// Errors: those of reading and decoding; kRefused "quant-offset" where a value does not fit.
Status Produce(const Plan& plan, const PlannedTensor& tensor, uint64_t from, MutableBytes out);

}  // namespace q2c
