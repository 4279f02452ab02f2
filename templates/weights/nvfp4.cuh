// nvfp4.cuh: NVFP4 weight granules: 576 bytes: 512 of e2m1 codes, 64 of e4m3 block scales (one per row and 16 k).
//
// A lane's 32-bit word j holds k = 4j .. 4j+3 of its sixteen, a byte each, of both its rows: (sign bit | magnitude bits)
// row r = 7 | 3:1, row r + 8 = 0 | 6:4. One mask, or two masks and two shifts, turn a word into four e5m2 bytes, which are
// the high bytes of f16: they hold the values times 2^-14.
// The scales of rows r and r + 8 of a block stand together, in the order of the lanes that own the block.
#pragma once
#include "layout.cuh"

namespace weights {

struct nvfp4 {
  enum : int { granule_bytes = 576, codes_bytes = 512 };
  enum : int { columns = 8 }; ///< of B per token where a warpgroup multiplies: two per block of a granule
  static constexpr bool f16_operand = true; ///< math = fast multiplies f16, else bf16
  PHASEC_DEVICE static float unit() { return 16384.0f; } ///< ... with its values divided by this

  struct Place {
    int word, sign, magnitude; ///< u32 index and bit positions
  };
  PHASEC_DEVICE static Place place(int row, int k) {
    int in = k & 15, byte = (in & 3) * 8, low = row < 8;
    return Place{owner(row, k) * 4 + (in >> 2), byte + (low ? 7 : 0), byte + (low ? 1 : 4)};
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
