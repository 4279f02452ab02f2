// bf16.cuh (fast): bf16 weights are mma operands as they lie.
#pragma once
#include "../../weights/bf16.cuh"
#include "segment.cuh"

namespace weights {

PHASEC_DEVICE core::Codes load(bf16, const u8 *granule, int lane) {
  const Words4 *from = (const Words4 *)granule + lane;
  return {{from[0], from[32], from[64], from[96]}, 0}; // k 0 .. 7, then 8 .. 15 of row r, and of row r + 8
}
PHASEC_DEVICE core::Fragments fragments(bf16, const core::Codes &codes) {
  core::Fragments f;
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const Words4 &w = codes.of[j / 2], &w8 = codes.of[2 + j / 2];
    int at = 2 * j & 2;
    f.a[j][0] = w.word[at], f.a[j][1] = w8.word[at], f.a[j][2] = w.word[at + 1], f.a[j][3] = w8.word[at + 1];
  }
  return f;
}

} // namespace weights
