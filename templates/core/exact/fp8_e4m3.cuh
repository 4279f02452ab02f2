// fp8_e4m3.cuh (exact): fp8_e4m3 weights decoded one by one to fp32, before the scale that is applied to finished sums.
#pragma once
#include "../../weights/fp8_e4m3.cuh"
#include "segment.cuh"

namespace weights {

PHASEC_DEVICE float decode(fp8_e4m3, const u8 *granule, int row, int k) {
  return numeric::from_e4m3(u8(fp8_e4m3::code(granule, row, k)));
}

} // namespace weights
