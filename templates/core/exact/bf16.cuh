// bf16.cuh (exact): bf16 weights decoded one by one to fp32, before the scale that is applied to finished sums.
#pragma once
#include "../../weights/bf16.cuh"
#include "segment.cuh"

namespace weights {

PHASEC_DEVICE float decode(bf16, const u8 *granule, int row, int k) {
  return numeric::from_bf16(u16(bf16::code(granule, row, k)));
}

} // namespace weights
