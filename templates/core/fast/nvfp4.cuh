// nvfp4.cuh (fast): words become f16 pairs (values times 2^-14) with masks and multiplications. Every e2m1 x e4m3 product times 2^-14 is a
// multiple of 2^-24 of at most six bits: f16 holds it exactly.
#pragma once
#include "../../weights/nvfp4.cuh"
#include "segment.cuh"

namespace weights {

PHASEC_DEVICE core::Codes load(nvfp4, const u8 *granule, int lane) {
  return {{((const Words4 *)granule)[lane]}, ((const u16 *)(granule + nvfp4::codes_bytes))[lane]}; // scales of rows r, r + 8
}
/// The A operand of a word, without its scales: rows r and r + 8, k 4j and 4j + 1, then those behind them. A multiplication moves a sign and a
/// magnitude to their places; what else it moves there is masked away, and no sum of it carries so far.
PHASEC_DEVICE void fragment(nvfp4, u32 x, u32 (&a)[4]) {
  constexpr u32 kept = 0x8e008e00u;
  u32 rest = ptx::unknown(x & 0x603f603fu);
  a[0] = x & kept;
  a[1] = (x << 3) & kept;
  a[2] = (rest << 6 | rest << 1) & kept;
  a[3] = rest * 516u & kept;
}
/// The block scales of rows r and r + 8.
PHASEC_DEVICE core::RowScales row_scales(nvfp4, const core::Codes &codes) {
  u32 scales = ptx::e4m3x2_to_f16x2(codes.scales);
  return core::RowScales{ptx::from_f16(scales), ptx::from_f16_high(scales)};
}
PHASEC_DEVICE core::Fragments fragments(nvfp4, const core::Codes &codes) {
  u32 scales = ptx::e4m3x2_to_f16x2(codes.scales);
  u32 scale = (scales & 0xffffu) | (scales << 16), scale8 = (scales >> 16) | (scales & 0xffff0000u);
  core::Fragments f;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    fragment(nvfp4{}, codes.of[0].word[j], f.a[j]);
#pragma unroll
    for (int i = 0; i < 4; i++) f.a[j][i] = ptx::mul_f16x2(f.a[j][i], i % 2 ? scale8 : scale);
  }
  return f;
}

} // namespace weights
