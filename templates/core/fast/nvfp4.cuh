// nvfp4.cuh (fast): words become e5m2 bytes with masks and shifts, the bytes f16 pairs (values times 2^-14), which take their
// block scales as f16 products. Every e2m1 x e4m3 product times 2^-14 is a multiple of 2^-24 of at most six bits: f16 holds
// it exactly.
#pragma once
#include "../../weights/nvfp4.cuh"
#include "segment.cuh"

namespace weights {

PHASEC_DEVICE core::Fragments fragments(nvfp4, const u8 *granule, int lane) {
  Words4 codes = ((const Words4 *)granule)[lane];
  u32 scales = ptx::e4m3x2_to_f16x2(((const u16 *)(granule + nvfp4::codes_bytes))[lane]); // rows r, r + 8
  u32 scale = (scales & 0xffffu) | (scales << 16), scale8 = (scales >> 16) | (scales & 0xffff0000u);
  core::Fragments f;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    u32 x = codes.word[j], bytes = x & 0x8e8e8e8eu, bytes8 = ((x >> 3) & 0x0e0e0e0eu) | (ptx::shift_left<7>(x) & 0x80808080u);
    f.a[j][0] = ptx::mul_f16x2(ptx::permute(bytes, 0u, 0x1404u), scale);
    f.a[j][1] = ptx::mul_f16x2(ptx::permute(bytes8, 0u, 0x1404u), scale8);
    f.a[j][2] = ptx::mul_f16x2(ptx::permute(bytes, 0u, 0x3424u), scale);
    f.a[j][3] = ptx::mul_f16x2(ptx::permute(bytes8, 0u, 0x3424u), scale8);
  }
  return f;
}

} // namespace weights
