// numeric.cuh: storage types and their conversions, on which every device, the sim and the host agree to the bit: integer code,
// save to e4m3 where the hardware's instruction gives the same. bf16: RN-even. e4m3: RN-even, saturating at 448. e2m1: RN-even,
// saturating at 6 (OCP MX 1.0, section 5.3).
#pragma once
#include "base.cuh"
#include "ptx.cuh"

/// 16-bit brain float, by its bits.
struct bf16 {
  u16 raw;
};
/// OCP FP8 E4M3 (no infinities), by its bits.
struct e4m3 {
  u8 raw;
};

namespace numeric {

PHASEC_DEVICE float from_bf16(u16 v) { return ptx::from_bits(u32(v) << 16); }
PHASEC_DEVICE u16 to_bf16(float v) {
  u32 b = ptx::bits(v);
  if ((b & 0x7fffffffu) > 0x7f800000u) return u16((b >> 16) | 0x0040u); // quiet NaN
  return u16((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
}

/// e4m3 to float, exact. The exponent is rebiased by 120; subnormals are multiples of 2^-9.
PHASEC_DEVICE float from_e4m3(u8 v) {
  u32 sign = u32(v & 0x80u) << 24, magnitude = v & 0x7fu;
  if (magnitude == 0x7fu) return ptx::from_bits(sign | 0x7fc00000u);
  if (magnitude < 8u) return ptx::from_bits(sign | ptx::bits(float(magnitude) * 0.001953125f));
  return ptx::from_bits(sign | ((magnitude << 20) + (120u << 23)));
}
PHASEC_DEVICE u8 to_e4m3(float v) {
#if defined(__CUDACC__) && !defined(PHASEC_SIM) && PHASEC_SM >= 90
  return u8(ptx::to_e4m3x2(v, 0.0f)); // the same to the bit
#else
  u32 b = ptx::bits(v), sign = (b >> 24) & 0x80u, a = b & 0x7fffffffu;
  if (a > 0x7f800000u) return 0x7fu;
  if (a >= 0x43e80000u) return u8(sign | 0x7eu); // 464 and above round to 448 or saturate
  if (a < 0x3c800000u) {                         // below 2^-6: multiples of 2^-9, rounded by adding 2^14
    float shifted = ptx::from_bits(a) + 16384.0f;
    return u8(sign | (ptx::bits(shifted) & 0x0fu));
  }
  u32 r = a + 0x7ffffu + ((a >> 20) & 1u);       // RN-even at 3 mantissa bits
  u32 code = (r >> 20) - (120u << 3);
  return u8(sign | (code > 0x7eu ? 0x7eu : code));
#endif
}

/// e2m1 magnitude code (0..7) to float: 0 .5 1 1.5 2 3 4 6.
PHASEC_DEVICE float from_e2m1(u32 code) {
  u32 magnitude = code & 7u, sign = (code & 8u) << 28;
  float v = magnitude < 2u ? 0.5f * float(magnitude) : ptx::from_bits((magnitude << 22) + (126u << 23));
  return ptx::from_bits(sign | ptx::bits(v));
}
PHASEC_DEVICE u32 to_e2m1(float v) {
  u32 b = ptx::bits(v), sign = (b >> 28) & 8u;
  float a = ptx::from_bits(b & 0x7fffffffu);
  if (!(a <= 5.0f)) return a > 5.0f ? (sign | 7u) : 7u; // 5 is a tie of 4 and 6: to even, 4; NaN to +6
  u32 code = a <= 0.25f ? 0u : a < 0.75f ? 1u : a <= 1.25f ? 2u : a < 1.75f ? 3u : a <= 2.5f ? 4u : a < 3.5f ? 5u : 6u;
  return sign | code;
}

PHASEC_DEVICE float load(const float *p) { return *p; }
PHASEC_DEVICE float load(const bf16 *p) { return from_bf16(p->raw); }
PHASEC_DEVICE float load(const e4m3 *p) { return from_e4m3(p->raw); }
PHASEC_DEVICE void store(float *p, float v) { *p = v; }
PHASEC_DEVICE void store(bf16 *p, float v) { p->raw = to_bf16(v); }
PHASEC_DEVICE void store(e4m3 *p, float v) { p->raw = to_e4m3(v); }

} // namespace numeric
