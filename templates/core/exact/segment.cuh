// segment.cuh (exact): one segment of a GEMV as 32 lane chains per row and an xor butterfly. Lane l takes the k that are l
// modulo 32, in ascending order, with fused multiply-adds from +0.
#pragma once
#include "operand.cuh"

namespace core {

/// Sums s.k_begin <= k < s.k_end of sixteen rows for every token. `stage` holds the segment's granules, the staged operand
/// begins at k = k0. Writes sums[token * 16 + row]. One warp.
template <class G>
PHASEC_DEVICE void segment(const Cta &cta, const u8 *stage, const gemv::SegmentRow &s, const gemv::Part &p, int k0, float *sums) {
  if (!p.live) return;
  using Format = typename G::Format;
  const u16 *x = gemv::staged<G>(cta);
  int stage_k = s.granule_begin * weights::kGranuleK;
  int first = s.k_begin + ((cta.lane - s.k_begin) & 31); // the least k >= k_begin that is lane modulo 32
#pragma unroll 1
  for (int row = 0; row < weights::kTileRows; row++) {
    float acc[G::tokens];
#pragma unroll
    for (int t = 0; t < G::tokens; t++) acc[t] = 0.0f;
    for (int k = first; k < s.k_end; k += 32) {
      int in = k - stage_k;
      float w = decode(Format{}, stage + (in / weights::kGranuleK) * Format::granule_bytes, row, in % weights::kGranuleK);
#pragma unroll
      for (int t = 0; t < G::tokens; t++)
        if (t < cta.tokens) acc[t] = ptx::fma(w, numeric::from_bf16(x[t * G::operand_stride + k - k0]), acc[t]);
    }
#pragma unroll
    for (int t = 0; t < G::tokens; t++) {
      if (t >= cta.tokens) break;
      float sum = ptx::butterfly_sum(acc[t]);
      if (cta.lane == t) sums[t * weights::kTileRows + row] = sum;
    }
  }
}

} // namespace core
