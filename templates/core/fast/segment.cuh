// segment.cuh (fast): segments of a GEMV on the tensor cores, by a warp, or by a team where that is faster. A warp's granule
// is four m16n8k16: A is the weights of sixteen rows as the lanes own them, B the staged operand of eight tokens. The order
// of k inside a granule is a permutation that both sides share: lane c of four has k 16c .. 16c + 15, four of them per mma.
#pragma once
#include "warpgroup.cuh"

namespace core {

/// The A operands of a granule's four mma: a[j] covers the lane's k 4j .. 4j + 3, rows r, r + 8, r, r + 8.
struct Fragments {
  u32 a[4][4];
};

/// The sums of one warp.
template <class G> struct WarpSums : Segment<G> {
  using Format = typename G::Format;
  enum : int { kTiles = (G::tokens + 7) / 8 }; // of eight tokens
  float total[kTiles][4];
  float *to;

  PHASEC_DEVICE void begin(float *piece) {
    to = piece;
#pragma unroll
    for (int i = 0; i < 4 * kTiles; i++) total[i / 4][i % 4] = 0.0f;
  }
  PHASEC_DEVICE void add(const Cta &cta, int slot, const gemv::Part &p) {
    gemv::Extent e = gemv::extent<G>(slot, p.fold);
    float acc[2][kTiles][4] = {}; // two chains: half the latency
    int row = cta.lane >> 2, own = cta.lane & 3;
    const u16 *x[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; t++) {
      int token = 8 * t + row < cta.tokens ? 8 * t + row : 0; // columns beyond are computed and not stored
      x[t] = gemv::staged<G>(cta) + token * G::operand_stride + e.begin * weights::kGranuleK + own * 16;
    }
#pragma unroll
    for (int g = 0; g < G::segment_granules; g++) {
      if (g >= G::segment_least && g >= e.count) break;
      Fragments f = fragments(Format{}, this->codes[g]);
#pragma unroll
      for (int t = 0; t < kTiles; t++) {
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
    for (int t = 0; t < kTiles; t++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float scale = 1.0f;
        if constexpr (Format::f16_operand) {
          int token = 8 * t + 2 * own + (i & 1);
          scale = operand::scales<G>(cta)[(token < cta.tokens ? token : 0) * G::segments + p.fold];
        }
        total[t][i] = ptx::fma(acc[0][t][i] + acc[1][t][i], scale, total[t][i]);
      }
  }
  PHASEC_DEVICE void end(const Cta &cta) const {
#pragma unroll
    for (int t = 0; t < kTiles; t++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (int token = 8 * t + 2 * (cta.lane & 3) + (i & 1); token < cta.tokens)
          to[token * weights::kTileRows + (cta.lane >> 2) + 8 * (i >> 1)] = total[t][i];
  }
};

template <bool Team, class G> struct SumsOf {
  using Type = WarpSums<G>;
};
template <class G> struct SumsOf<true, G> {
  using Type = warpgroup::TeamSums<G>;
};
template <class G> struct Sums : SumsOf<warpgroup::takes<G>, G>::Type {
  static constexpr bool whole = false;
};

} // namespace core
