// segment.cuh (exact): a segment of a GEMV as 32 lane chains per row and an xor butterfly. Lane l takes the k that are l modulo
// 32, in ascending order, with fused multiply-adds from +0. Segments are added in order.
#pragma once
#include "operand.cuh"

namespace core {

/// A warp's sums, which lie where they are left.
template <class G> struct Sums {
  static constexpr bool whole = true, copies = false, early = false;
  const u8 *stage;
  float *to;
  bool first; ///< segment of the unit

  PHASEC_DEVICE void begin(float *piece) { to = piece, first = true; }
  PHASEC_DEVICE void take(const u8 *from, int) { stage = from; }
  /// Adds the sums over a segment's k of sixteen rows for every token.
  PHASEC_DEVICE void add(const Cta &cta, int slot, int fold) {
    gemv::SegmentRow s = gemv::segment_row<G>(slot, fold);
    int k0 = gemv::slot_begin<G>(slot);
    using Format = typename G::Format;
    const u16 *x = gemv::staged<G>(cta);
    int stage_k = s.granule_begin * weights::kGranuleK;
    int from = s.k_begin + ((cta.lane - s.k_begin) & 31); // the least k >= k_begin that is lane modulo 32
#pragma unroll 1
    for (int row = 0; row < weights::kTileRows; row++) {
      float acc[G::tokens];
#pragma unroll
      for (int t = 0; t < G::tokens; t++) acc[t] = 0.0f;
      for (int k = from; k < s.k_end; k += 32) {
        int in = k - stage_k;
        float w = decode(Format{}, stage + (in / weights::kGranuleK) * Format::granule_bytes, row, in % weights::kGranuleK);
#pragma unroll
        for (int t = 0; t < G::tokens; t++)
          if (t < cta.tokens) acc[t] = ptx::fma(w, numeric::from_bf16(x[t * G::operand_stride + k - k0]), acc[t]);
      }
#pragma unroll
      for (int t = 0; t < G::tokens; t++) {
        if (t >= cta.tokens) break;
        float sum = ptx::butterfly_sum(acc[t]), *at = to + t * weights::kTileRows + row;
        if (cta.lane == t) *at = first ? sum : *at + sum;
      }
    }
    first = false;
  }
  PHASEC_DEVICE void end(const Cta &) {}
};

} // namespace core
