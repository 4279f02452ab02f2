// float16.cuh: how f16 and e4m3 cover the range of bf16 operands: each group of values has a power of two of its own.
#pragma once
#include "../../numeric.cuh"

namespace float16 {

/// The power of two that brings amax to [2^top, 2^(top + 1)), top <= 14; 1 for zeros, infinities and NaNs.
PHASEC_DEVICE float power_for(float amax, int top = 14) {
  int exponent = int(ptx::bits(amax) >> 23);
  if (exponent == 255 || amax == 0.0f) return 1.0f;
  int biased = 127 + top + 127 - exponent;
  return ptx::from_bits(u32(biased < 253 ? biased : 253) << 23);
}
/// 1 / power, exactly.
PHASEC_DEVICE float inverse(float power) { return ptx::from_bits((254u << 23) - ptx::bits(power)); }

} // namespace float16
