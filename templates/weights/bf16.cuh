// bf16.cuh: bfloat16 weight granules: 2048 bytes, four 16-byte pieces per lane: rows r and r + 8, k 0..7 and 8..15 of the
// lane's sixteen.
#pragma once
#include "layout.cuh"

namespace weights {

struct bf16 {
  enum : int { granule_bytes = 2048 };
  static constexpr bool block_scales = false; ///< of sixteen k; else scales are rows' or the tensor's
  static constexpr bool f16_operand = false; ///< math = fast multiplies f16, else bf16
  PHASEC_DEVICE static int offset(int row, int k) {
    int piece = (row >> 3) * 2 + ((k >> 3) & 1);
    return (piece * 32 + owner(row, k)) * 16 + (k & 7) * 2;
  }
  /// Packer: stores the 16-bit code of (row, k).
  PHASEC_DEVICE static void put(u8 *granule, int row, int k, u32 code) {
    *(u16 *)(granule + offset(row, k)) = u16(code);
  }
  PHASEC_DEVICE static u32 code(const u8 *granule, int row, int k) { return *(const u16 *)(granule + offset(row, k)); }
};

} // namespace weights
