// segment.cuh (fast): segments of a GEMV on the tensor cores. A granule is four m16n8k16: A is the weights of sixteen rows as the
// lanes own them, B the staged operand of eight tokens. The order of k inside a granule is a permutation that both sides share:
// lane c of four has k 16c .. 16c + 15, four of them per mma.
#pragma once
#include "operand.cuh"

namespace core {

/// A lane's bytes of a granule as they lie.
struct Codes {
  Words4 of[4];
  u32 scales; ///< where the format has any
};
/// Those of a segment, copied from its stage, which is soon free. Behind a shorter segment's end lie whatever bytes.
template <class G> struct Segment {
  static constexpr bool copies = true;
  /// For one token: registers hold both a segment and what is loaded of an operand that comes word by word.
  static constexpr int words = (G::Format::granule_bytes + 127) / 128 * G::segment_granules;
  static constexpr bool early = G::tokens == 1 && tagged_values<typename G::X> > 0 && words + operand::words_loaded<G>() <= 128;
  Codes codes[G::segment_granules];

  /// Registers that a loop may fill are not undefined before it: they would be live through the whole launch.
  PHASEC_DEVICE void clear() {
#pragma unroll
    for (int g = 0; g < G::segment_granules; g++) codes[g] = Codes{};
  }
  PHASEC_DEVICE void take(const u8 *stage, int lane) {
    using Format = typename G::Format;
#pragma unroll
    for (int g = 0; g < G::segment_granules; g++) codes[g] = load(Format{}, stage + g * Format::granule_bytes, lane);
  }
};

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
  PHASEC_DEVICE void add(const Cta &cta, int slot, int fold) {
    gemv::Extent e = gemv::extent<G>(slot, fold);
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
          scale = operand::scales<G>(cta)[(token < cta.tokens ? token : 0) * G::segments + fold];
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

/// The scales of a lane's block of a granule, rows r and r + 8.
struct RowScales {
  float row, row8;
};
/// The same for one or two tokens of a format whose blocks have scales: column n of B has the k of block n / 2 alone, of token n % 2, so that
/// a lane's sums belong to one scale, which they are multiplied with instead of every weight.
template <class G> struct BlockSums : Segment<G> {
  using Format = typename G::Format;
  enum : int { kTokens = G::tokens };
  float total[kTokens][2]; ///< rows r and r + 8, over the lane's blocks
  float *to;

  PHASEC_DEVICE void begin(float *piece) {
    to = piece;
#pragma unroll
    for (int t = 0; t < kTokens; t++) total[t][0] = total[t][1] = 0.0f;
  }
  PHASEC_DEVICE void add(const Cta &cta, int slot, int fold) {
    gemv::Extent e = gemv::extent<G>(slot, fold);
    int column = cta.lane >> 2, own = cta.lane & 3, token = column % 2;
    const Words4 *b = (const Words4 *)(gemv::staged<G>(cta) + token * G::operand_stride + e.begin * weights::kGranuleK + own * 16);
    if (column / 2 != own || token >= cta.tokens) b = (const Words4 *)operand::zeros<G>();
    float acc[kTokens][2] = {};
#pragma unroll
    for (int g = 0; g < G::segment_granules; g++) {
      Words4 low = b[g * 8], high = b[g * 8 + 1];
      float d[4] = {};
#pragma unroll
      for (int j = 0; j < 4; j++) {
        u32 a[4];
        fragment(Format{}, this->codes[g].of[0].word[j], a);
        ptx::mma_f16(d, a, j < 2 ? low.word[2 * j] : high.word[2 * j - 4], j < 2 ? low.word[2 * j + 1] : high.word[2 * j - 3]);
      }
      RowScales s = row_scales(Format{}, this->codes[g]);
      if (g >= G::segment_least && g >= e.count) continue; // whatever bytes: multiplied and forgotten
#pragma unroll
      for (int t = 0; t < kTokens; t++) acc[t][0] = ptx::fma(d[t], s.row, acc[t][0]), acc[t][1] = ptx::fma(d[2 + t], s.row8, acc[t][1]);
    }
#pragma unroll
    for (int t = 0; t < kTokens; t++) {
      float scale = operand::scales<G>(cta)[(t < cta.tokens ? t : 0) * G::segments + fold];
      total[t][0] = ptx::fma(acc[t][0], scale, total[t][0]), total[t][1] = ptx::fma(acc[t][1], scale, total[t][1]);
    }
  }
  PHASEC_DEVICE void end(const Cta &cta) const {
    int row = cta.lane >> 2, own = cta.lane & 3;
#pragma unroll
    for (int t = 0; t < kTokens; t++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float v = total[t][i]; // four lanes have a block each
        v = v + ptx::from_bits(ptx::shfl_xor(ptx::bits(v), 1));
        v = v + ptx::from_bits(ptx::shfl_xor(ptx::bits(v), 2));
        if (own == t && t < cta.tokens) to[t * weights::kTileRows + row + 8 * i] = v;
      }
  }
};

template <class G> struct SumsOf {
  using Type = WarpSums<G>;
};
template <class G>
  requires operand::by_block<G>
struct SumsOf<G> {
  using Type = BlockSums<G>;
};
template <class G> struct Sums : SumsOf<G>::Type {
  static constexpr bool whole = false;
};

} // namespace core
