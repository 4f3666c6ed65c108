#include "verify/kernels.h"

// Highway includes this file once for each vector unit.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "verify/kernels.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <cmath>

HWY_BEFORE_NAMESPACE();
namespace q2c::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<float, kPanelOutputs>;
using V = hn::Vec<D>;

// Rounded once on every machine: where the unit cannot, the C library does, slowly.
HWY_INLINE V Fused(V a, V b, V c) {
#if HWY_NATIVE_FMA || HWY_TARGET == HWY_AVX2 || HWY_TARGET <= HWY_AVX3
  return hn::MulAdd(a, b, c);
#else
  const D d;
  HWY_ALIGN float x[kPanelOutputs];
  HWY_ALIGN float y[kPanelOutputs];
  HWY_ALIGN float z[kPanelOutputs];
  hn::Store(a, d, x);
  hn::Store(b, d, y);
  hn::Store(c, d, z);
  for (size_t i = 0; i < hn::Lanes(d); ++i) x[i] = std::fma(x[i], y[i], z[i]);
  return hn::Load(d, x);
#endif
}

// kTokens rows by two vectors: the sums stay in registers.
template <size_t kTokens>
HWY_INLINE void AddBlock(const float* HWY_RESTRICT x, uint64_t x_stride, const float* HWY_RESTRICT panel, uint64_t inputs, float* HWY_RESTRICT y, uint64_t y_stride) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  for (size_t n = 0; n < kPanelOutputs; n += 2 * lanes) {
    V left[kTokens];
    V right[kTokens];
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) left[t] = right[t] = hn::Zero(d);
    for (uint64_t k = 0; k < inputs; ++k) {
      const V a = hn::LoadU(d, panel + k * kPanelOutputs + n);
      const V b = hn::LoadU(d, panel + k * kPanelOutputs + n + lanes);
#pragma GCC unroll 8
      for (size_t t = 0; t < kTokens; ++t) {
        const V factor = hn::Set(d, x[t * x_stride + k]);
        left[t] = Fused(factor, a, left[t]);
        right[t] = Fused(factor, b, right[t]);
      }
    }
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      float* out = y + t * y_stride + n;
      hn::StoreU(hn::Add(hn::LoadU(d, out), left[t]), d, out);
      hn::StoreU(hn::Add(hn::LoadU(d, out + lanes), right[t]), d, out + lanes);
    }
  }
}

void AddProduct(const float* x, uint64_t x_stride, uint64_t tokens, const float* panel, uint64_t inputs, float* y, uint64_t y_stride) {
  constexpr size_t kMost = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM ? 8 : 4;  // as the registers allow
  uint64_t t = 0;
  for (; t + kMost <= tokens; t += kMost) AddBlock<kMost>(x + t * x_stride, x_stride, panel, inputs, y + t * y_stride, y_stride);
  for (; t < tokens; ++t) AddBlock<1>(x + t * x_stride, x_stride, panel, inputs, y + t * y_stride, y_stride);
}

HWY_INLINE V Widened(const uint8_t* codes) {
  const D d;
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<uint8_t, D> du;
  return hn::ConvertTo(d, hn::PromoteTo(di, hn::LoadU(du, codes)));
}

void Dequantise(const uint8_t* codes, const float* scales, const float* zeros, float* weights) {
  const D d;
  for (size_t n = 0; n < kPanelOutputs; n += hn::Lanes(d)) {
    const V product = hn::Mul(hn::LoadU(d, scales + n), hn::Sub(Widened(codes + n), hn::LoadU(d, zeros + n)));
    hn::StoreU(hn::Add(product, hn::Zero(d)), d, weights + n);
  }
}

void DequantiseOffsets(const uint8_t* codes, const float* scales, const float* offsets, float* weights) {
  const D d;
  for (size_t n = 0; n < kPanelOutputs; n += hn::Lanes(d)) {
    const V sum = Fused(hn::LoadU(d, scales + n), Widened(codes + n), hn::LoadU(d, offsets + n));
    hn::StoreU(hn::Add(sum, hn::Zero(d)), d, weights + n);
  }
}

uint64_t VectorFloats() { return hn::Lanes(D()); }
const char* VectorUnit() { return hwy::TargetName(HWY_TARGET); }

}  // namespace q2c::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace q2c {

HWY_EXPORT(AddProduct);
HWY_EXPORT(Dequantise);
HWY_EXPORT(DequantiseOffsets);
HWY_EXPORT(VectorFloats);
HWY_EXPORT(VectorUnit);

void AddProduct(const float* x, uint64_t x_stride, uint64_t tokens, const float* panel, uint64_t inputs, float* y, uint64_t y_stride) {
  HWY_DYNAMIC_DISPATCH(AddProduct)(x, x_stride, tokens, panel, inputs, y, y_stride);
}
void Dequantise(const uint8_t* codes, const float* scales, const float* zeros, float* weights) { HWY_DYNAMIC_DISPATCH(Dequantise)(codes, scales, zeros, weights); }
void DequantiseOffsets(const uint8_t* codes, const float* scales, const float* offsets, float* weights) { HWY_DYNAMIC_DISPATCH(DequantiseOffsets)(codes, scales, offsets, weights); }
uint64_t VectorFloats() { return HWY_DYNAMIC_DISPATCH(VectorFloats)(); }
std::string_view VectorUnit() { return HWY_DYNAMIC_DISPATCH(VectorUnit)(); }

}  // namespace q2c
#endif  // HWY_ONCE
