// exact.cuh: the functions of `math = exact`. Plain IEEE operations in a written order, so that the reference, the sim and
// every GPU agree to the bit. No approximate instruction, no library function.
#pragma once
#include "../numeric.cuh"

namespace math {

PHASEC_DEVICE float infinity() { return ptx::from_bits(0x7f800000u); }
inline constexpr float kLog2e = 1.44269502f;
/// Values of T in a tagged word: of fp32 nothing is lost.
template <class T> struct Packed {
  enum : int { values = sizeof(T) == 4 ? 1 : 4 };
};

/// 2^x. x = n + f with |f| <= 1/2; a degree-6 polynomial in f (minimax coefficients of 2^f); scaled in two exact steps.
/// Below -126 the result is +0; from 128 on, +infinity.
PHASEC_DEVICE float exp2(float x) {
  if (x != x) return x;
  if (x < -126.0f) return 0.0f;
  if (x >= 128.0f) return infinity();
  float shifted = x + 0.5f;
  i32 n = i32(shifted);
  if (float(n) > shifted) n -= 1; // floor
  float f = x - float(n);
  float p = 0.000154035304f;
  p = ptx::fma(p, f, 0.00133335581f);
  p = ptx::fma(p, f, 0.00961812911f);
  p = ptx::fma(p, f, 0.0555041087f);
  p = ptx::fma(p, f, 0.240226507f);
  p = ptx::fma(p, f, 0.693147182f);
  p = ptx::fma(p, f, 1.0f);
  i32 half = n >> 1;
  float low = ptx::from_bits(u32(half + 127) << 23), high = ptx::from_bits(u32(n - half + 127) << 23);
  return (p * low) * high;
}

PHASEC_DEVICE float sigmoid(float v) { return ptx::div(1.0f, 1.0f + exp2(-(v * kLog2e))); }
PHASEC_DEVICE float silu(float v) { return ptx::div(v, 1.0f + exp2(-(v * kLog2e))); }
/// 0.5 v (1 + tanh(sqrt(2/pi) (v + 0.044715 v^3))) (Hendrycks and Gimpel, 2016), with tanh(u) = 1 - 2/(1 + e^2u).
PHASEC_DEVICE float gelu_tanh(float v) {
  float cube = (v * v) * v;
  float u = 0.797884583f * ptx::fma(0.044715f, cube, v);
  float tanh = 1.0f - ptx::div(2.0f, 1.0f + exp2(u * 2.88539004f));
  return (0.5f * v) * (1.0f + tanh);
}

} // namespace math
