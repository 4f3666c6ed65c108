// Elements of one float type as another. Also the block types of GGUF, for tensors that are
// no quantised linears, such as embeddings.
#pragma once

#include "formats/quant_linear.h"

namespace q2c {

// Is every value of `from` a value of `to`?
bool CastIsExact(Dtype from, Dtype to);
// Can it be done at all? F16, BF16, F32 to each other and to Q8_0; Q4_0, Q4_1, Q8_0 to those three.
bool CanCast(Dtype from, Dtype to);
// `from` and `to` hold the same number of elements, whole blocks of both. To Q8_0 as GGUF's
// reference quantiser does it: scale = largest / 127 as float16, codes rounded half away from zero.
void Cast(ByteView from, Dtype from_dtype, MutableBytes to, Dtype to_dtype);

// The scales of a linear in another float type.
void CastScales(Dtype to, QuantLinear* linear);

}  // namespace q2c
