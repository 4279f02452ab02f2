// fast.cuh: the functions of `math = fast`: the hardware's approximations, each within a few units in the last place of
// fp32, so far below bf16's rounding. None flushes subnormal numbers.
#pragma once
#include "../numeric.cuh"

namespace math {

PHASEC_DEVICE float infinity() { return ptx::from_bits(0x7f800000u); }
inline constexpr float kLog2e = 1.44269502f;
/// Values of T in a tagged word: fp32 without its last byte is off by less than 2^-15 of a value, bf16 by up to 2^-8.
template <class T> struct Packed {
  enum : int { values = 4 };
};

PHASEC_DEVICE float exp2(float x) { return ptx::exp2_approx(x); }
PHASEC_DEVICE float sigmoid(float v) { return ptx::rcp_approx(1.0f + exp2(-(v * kLog2e))); }
PHASEC_DEVICE float silu(float v) { return v * sigmoid(v); }
/// 0.5 v (1 + tanh(sqrt(2/pi) (v + 0.044715 v^3))) (Hendrycks and Gimpel, 2016), with tanh(u) = 1 - 2/(1 + e^2u).
PHASEC_DEVICE float gelu_tanh(float v) {
  float u = 0.797884583f * ptx::fma(0.044715f * v * v, v, v);
  return v - v * ptx::rcp_approx(1.0f + exp2(u * 2.88539004f));
}

} // namespace math
