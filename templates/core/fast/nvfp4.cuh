// nvfp4.cuh (fast): words become e5m2 bytes with masks and shifts. A warpgroup multiplies those and scales the sums. A warp by
// itself makes them f16 pairs (values times 2^-14), which take their block scales as f16 products. Every e2m1 x e4m3 product times 2^-14 is a multiple of 2^-24 of at most six bits: f16 holds
// it exactly.
#pragma once
#include "../../weights/nvfp4.cuh"
#include "segment.cuh"

namespace weights {

/// A word's codes as four e5m2 bytes of row r and four of row r + 8: the values times 2^-14.
struct EBytes {
  u32 row, row8;
};
PHASEC_DEVICE EBytes e5m2(u32 x) {
  return EBytes{x & 0x8e8e8e8eu, ((x >> 3) & 0x0e0e0e0eu) | (ptx::shift_left<7>(x) & 0x80808080u)};
}

PHASEC_DEVICE core::Codes load(nvfp4, const u8 *granule, int lane) {
  return {{((const Words4 *)granule)[lane]}, ((const u16 *)(granule + nvfp4::codes_bytes))[lane]}; // scales of rows r, r + 8
}
PHASEC_DEVICE core::Fragments fragments(nvfp4, const core::Codes &codes) {
  u32 scales = ptx::e4m3x2_to_f16x2(codes.scales);
  u32 scale = (scales & 0xffffu) | (scales << 16), scale8 = (scales >> 16) | (scales & 0xffff0000u);
  core::Fragments f;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    EBytes e = e5m2(codes.of[0].word[j]);
    f.a[j][0] = ptx::mul_f16x2(ptx::permute(e.row, 0u, 0x1404u), scale);
    f.a[j][1] = ptx::mul_f16x2(ptx::permute(e.row8, 0u, 0x1404u), scale8);
    f.a[j][2] = ptx::mul_f16x2(ptx::permute(e.row, 0u, 0x3424u), scale);
    f.a[j][3] = ptx::mul_f16x2(ptx::permute(e.row8, 0u, 0x3424u), scale8);
  }
  return f;
}

/// The same bytes for a warpgroup, without their scales.
PHASEC_DEVICE warpgroup::Fragments fragments8(nvfp4, const core::Codes &codes) {
  warpgroup::Fragments f;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    EBytes e = e5m2(codes.of[0].word[j]);
    f.a[j / 2][j % 2 * 2] = e.row, f.a[j / 2][j % 2 * 2 + 1] = e.row8;
  }
  return f;
}
PHASEC_DEVICE warpgroup::RowScales row_scales(nvfp4, const core::Codes &codes) {
  u32 scales = ptx::e4m3x2_to_f16x2(codes.scales);
  return warpgroup::RowScales{ptx::from_f16(scales), ptx::from_f16_high(scales)};
}
template <bool First, int Groups>
PHASEC_DEVICE void multiply(nvfp4, warpgroup::Begin<First>, float (&d)[Groups][4], const u32 (&a)[4], u64 b) {
  ptx::wgmma_e5m2<First>(d, a, b);
}

} // namespace weights
