// The two inner loops of the forward pass, compiled for each vector unit and chosen at run
// time. Both compute every element by itself and in the same order whatever the width of the
// vectors, so that every machine gets the same bits.
#pragma once

#include <cstdint>
#include <string_view>

namespace q2c {

inline constexpr uint64_t kPanelOutputs = 64;    // outputs side by side in a panel of weights
inline constexpr uint64_t kProductInputs = 128;  // inputs that are summed up before they are added to y

// y[t·y_stride + n] += Σ_k x[t·x_stride + k] · panel[k·kPanelOutputs + n] for `tokens` rows and
// n < kPanelOutputs. The sum over k is one chain of fused multiply-adds from 0, in order.
// `inputs` is at most kProductInputs.
void AddProduct(const float* x, uint64_t x_stride, uint64_t tokens, const float* panel, uint64_t inputs, float* y, uint64_t y_stride);

// weights[n] = scales[n] · (codes[n] − zeros[n]) + 0 for n < kPanelOutputs: no negative zeros.
void Dequantise(const uint8_t* codes, const float* scales, const float* zeros, float* weights);
// weights[n] = scales[n] · codes[n] + offsets[n] + 0, rounded once.
void DequantiseOffsets(const uint8_t* codes, const float* scales, const float* offsets, float* weights);

// Name of the vector unit in use: "AVX3".
std::string_view VectorUnit();
// Floats in one of its vectors.
uint64_t VectorFloats();

}  // namespace q2c
