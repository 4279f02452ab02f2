// fp8_e4m3.cuh (fast): e4m3 weights become f16 pairs, exactly.
#pragma once
#include "../../weights/fp8_e4m3.cuh"
#include "segment.cuh"

namespace weights {

PHASEC_DEVICE core::Codes load(fp8_e4m3, const u8 *granule, int lane) {
  const Words4 *from = (const Words4 *)granule + lane;
  return {{from[0], from[32]}, 0}; // rows r, r + 8
}
PHASEC_DEVICE core::Fragments fragments(fp8_e4m3, const core::Codes &codes) {
  const Words4 &w = codes.of[0], &w8 = codes.of[1];
  core::Fragments f;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    f.a[j][0] = ptx::e4m3x2_to_f16x2(w.word[j]), f.a[j][1] = ptx::e4m3x2_to_f16x2(w8.word[j]);
    f.a[j][2] = ptx::e4m3x2_to_f16x2_high(w.word[j]), f.a[j][3] = ptx::e4m3x2_to_f16x2_high(w8.word[j]);
  }
  return f;
}

} // namespace weights
