// bf16.cuh (fast): bf16 weights are mma operands as they lie.
#pragma once
#include "../../weights/bf16.cuh"
#include "segment.cuh"

namespace weights {

PHASEC_DEVICE core::Fragments fragments(bf16, const u8 *granule, int lane) {
  const Words4 *from = (const Words4 *)granule + lane;
  Words4 low = from[0], low8 = from[64], high = from[32], high8 = from[96]; // rows r, r + 8; k 0..7, then 8..15
  core::Fragments f;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const Words4 &w = j < 2 ? low : high, &w8 = j < 2 ? low8 : high8;
    int at = 2 * j & 2;
    f.a[j][0] = w.word[at], f.a[j][1] = w8.word[at], f.a[j][2] = w.word[at + 1], f.a[j][3] = w8.word[at + 1];
  }
  return f;
}

} // namespace weights
