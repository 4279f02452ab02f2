// nvfp4.cuh (exact): nvfp4 weights decoded one by one to fp32, before the scale that is applied to finished sums.
#pragma once
#include "../../weights/nvfp4.cuh"
#include "segment.cuh"

namespace weights {

PHASEC_DEVICE float decode(nvfp4, const u8 *granule, int row, int k) {
  return numeric::from_e2m1(nvfp4::code(granule, row, k)) *
         numeric::from_e4m3(granule[nvfp4::scale_offset(row, k)]);
}

} // namespace weights
