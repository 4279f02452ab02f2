// segment.cuh (fast): one segment of a GEMV on the tensor cores, by a warp, or by a team where that is faster. A warp's granule
// is four m16n8k16: A is the weights of sixteen rows as the lanes own them, B the staged operand of eight tokens. The order
// of k inside a granule is a permutation that both sides share: lane c of four has k 16c .. 16c + 15, four of them per mma.
#pragma once
#include "warpgroup.cuh"

namespace core {

/// The A operands of a granule's four mma: a[j] covers the lane's k 4j .. 4j + 3, rows r, r + 8, r, r + 8.
struct Fragments {
  u32 a[4][4];
};

/// By one warp.
template <class G>
PHASEC_DEVICE void warp_segment(const Cta &cta, const u8 *stage, const gemv::SegmentRow &s, int fold, int k0, float *sums) {
  using Format = typename G::Format;
  constexpr int tiles = (G::tokens + 7) / 8; // of eight tokens
  float acc[2][tiles][4] = {}; // two chains: half the latency
  int row = cta.lane >> 2, own = cta.lane & 3;
  const u16 *x[tiles];
#pragma unroll
  for (int t = 0; t < tiles; t++) {
    int token = 8 * t + row < cta.tokens ? 8 * t + row : 0; // columns beyond are computed and not stored
    x[t] = gemv::staged<G>(cta) + token * G::operand_stride + s.granule_begin * weights::kGranuleK - k0 + own * 16;
  }
#pragma unroll 2
  for (int g = 0; g < s.granule_end - s.granule_begin; g++) {
    Fragments f = fragments(Format{}, stage + g * Format::granule_bytes, cta.lane);
#pragma unroll
    for (int t = 0; t < tiles; t++) {
      if (t > 0 && cta.tokens <= 8 * t) break;
      const Words4 *b = (const Words4 *)(x[t] + g * weights::kGranuleK);
      Words4 low = b[0], high = b[1];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        u32 b0 = j < 2 ? low.word[2 * j] : high.word[2 * j - 4], b1 = j < 2 ? low.word[2 * j + 1] : high.word[2 * j - 3];
        if constexpr (Format::f16_operand) ptx::mma_f16(acc[j % 2][t], f.a[j], b0, b1);
        else ptx::mma_bf16(acc[j % 2][t], f.a[j], b0, b1);
      }
    }
  }
#pragma unroll
  for (int t = 0; t < tiles; t++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int token = 8 * t + 2 * own + (i & 1);
      float scale = 1.0f;
      if (token >= cta.tokens) continue;
      if constexpr (Format::f16_operand) scale = operand::scales<G>(cta)[token * G::segments + fold];
      sums[token * weights::kTileRows + row + 8 * (i >> 1)] = (acc[0][t][i] + acc[1][t][i]) * scale;
    }
}

template <class G>
PHASEC_DEVICE void segment(const Cta &cta, const u8 *stage, const gemv::SegmentRow &s, const gemv::Part &p, int k0, float *sums) {
  if constexpr (warpgroup::takes<G>) warpgroup::segment<G>(cta, stage, s, p, k0, sums);
  else if (p.live) warp_segment<G>(cta, stage, s, p.fold, k0, sums);
}

} // namespace core
