// segment.cuh (exact): one segment of a GEMV as 32 lane chains per row and an xor butterfly. Lane l takes the k that are l
// modulo 32, in ascending order, with fused multiply-adds from +0.
#pragma once
#include "../../numeric.cuh"
#include "../../weights/layout.cuh"

namespace core {

/// Sums k_begin <= k < k_end of sixteen rows for every token. `stage` holds granules from k = stage_k on; `x` is the staged
/// operand, bf16 [tokens][stride], whose column 0 is k = x_k. Writes sums[token * 16 + row]. One warp.
template <class Format, int Tokens>
PHASEC_DEVICE void segment(const u8 *stage, int stage_k, int k_begin, int k_end, const u16 *x, int stride, int x_k,
                           int tokens, float *sums) {
  int lane = ptx::lane();
  int first = k_begin + ((lane - k_begin) & 31); // the least k >= k_begin that is lane modulo 32
#pragma unroll 1
  for (int row = 0; row < weights::kTileRows; row++) {
    float acc[Tokens];
#pragma unroll
    for (int t = 0; t < Tokens; t++) acc[t] = 0.0f;
    for (int k = first; k < k_end; k += 32) {
      int in = k - stage_k;
      float w = decode(Format{}, stage + (in / weights::kGranuleK) * Format::granule_bytes, row, in % weights::kGranuleK);
#pragma unroll
      for (int t = 0; t < Tokens; t++)
        if (t < tokens) acc[t] = ptx::fma(w, numeric::from_bf16(x[t * stride + k - x_k]), acc[t]);
    }
#pragma unroll
    for (int t = 0; t < Tokens; t++) {
      if (t >= tokens) break;
      float sum = ptx::butterfly_sum(acc[t]);
      if (lane == t) sums[t * weights::kTileRows + row] = sum;
    }
  }
}

} // namespace core
