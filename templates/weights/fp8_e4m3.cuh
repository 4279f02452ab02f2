// fp8_e4m3.cuh: e4m3 weight granules: 1024 bytes, two 16-byte pieces per lane: its sixteen k of row r, then of row r + 8. The
// fp32 scale (per tensor or per row) is applied to finished sums.
#pragma once
#include "layout.cuh"

namespace weights {

struct fp8_e4m3 {
  enum : int { granule_bytes = 1024 };
  static constexpr bool block_scales = false; ///< of sixteen k; else scales are rows' or the tensor's
  static constexpr bool f16_operand = true; ///< math = fast multiplies f16, else bf16
  PHASEC_DEVICE static float unit() { return 1.0f; } ///< ... with its values divided by this
  PHASEC_DEVICE static int offset(int row, int k) { return ((row >> 3) * 32 + owner(row, k)) * 16 + (k & 15); }
  /// Packer: stores the 8-bit code of (row, k).
  PHASEC_DEVICE static void put(u8 *granule, int row, int k, u32 code) { granule[offset(row, k)] = u8(code); }
  PHASEC_DEVICE static u32 code(const u8 *granule, int row, int k) { return granule[offset(row, k)]; }
};

} // namespace weights
