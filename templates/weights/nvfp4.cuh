// nvfp4.cuh: NVFP4 weight granules: 576 bytes: 512 of e2m1 codes, 64 of e4m3 block scales (one per row and 16 k).
//
// A lane's 32-bit word j holds k = 4j .. 4j + 3 of its sixteen, of both its rows, eight codes (sign bit | magnitude bits) in two halves of
// 16 bits that are alike: row r has 15 | 11:9 and 14 | 5:3, row r + 8 has 12 | 8:6 and 13 | 2:0; the low half has k 4j and 4j + 2, the high
// half those behind them. Masks, and multiplications that move a sign and a magnitude at once, turn a word into four pairs of f16 that hold the
// values times 2^-14.
// The scales of rows r and r + 8 of a block stand together, in the order of the lanes that own the block.
#pragma once
#include "layout.cuh"

namespace weights {

struct nvfp4 {
  enum : int { granule_bytes = 576, codes_bytes = 512 };
  static constexpr bool block_scales = true; ///< of sixteen k; else scales are rows' or the tensor's
  static constexpr bool f16_operand = true; ///< math = fast multiplies f16, else bf16
  PHASEC_DEVICE static float unit() { return 16384.0f; } ///< ... with its values divided by this

  struct Place {
    int word, sign, magnitude; ///< u32 index and bit positions
  };
  PHASEC_DEVICE static Place place(int row, int k) {
    int in = k & 15, half = (in & 1) * 16, second = in >> 1 & 1, low = row < 8;
    int sign = second ? (low ? 14 : 13) : (low ? 15 : 12), magnitude = second ? (low ? 3 : 0) : (low ? 9 : 6);
    return Place{owner(row, k) * 4 + (in >> 2), half + sign, half + magnitude};
  }
  /// Packer: stores the e2m1 code (sign at bit 3) of (row, k) into a zeroed granule.
  PHASEC_DEVICE static void put(u8 *granule, int row, int k, u32 code) {
    Place p = place(row, k);
    ((u32 *)granule)[p.word] |= ((code >> 3) << p.sign) | ((code & 7u) << p.magnitude);
  }
  PHASEC_DEVICE static u32 code(const u8 *granule, int row, int k) {
    Place p = place(row, k);
    u32 word = ((const u32 *)granule)[p.word];
    return (((word >> p.sign) & 1u) << 3) | ((word >> p.magnitude) & 7u);
  }
  PHASEC_DEVICE static int scale_offset(int row, int k) { return codes_bytes + owner(row, k) * 2 + (row >> 3); }
};

} // namespace weights
