// warpgroup.cuh (fast, sm_90a): segments of four neighbouring row tiles by a team of four warps. A granule is two m64k32
// of 8-bit floats: A is the weights of each warp's sixteen rows as its lanes own them, B the staged pairs of all four. The
// order of k inside a granule is a permutation that both sides share: lane c of four has k 16c .. 16c + 15.
#pragma once
#include "operand.cuh"

namespace warpgroup {

/// A lane's bytes of a granule as they lie, and as the A operands of its two m64k32.
struct Codes {
  Words4 of[2];
};
struct Fragments {
  u32 a[2][4];
};
/// Whether sums begin with this multiplication.
template <bool> struct Begin {};
/// What sums over a lane's block of a granule are multiplied with, rows r and r + 8.
struct RowScales {
  float row, row8;
};

/// `Apart`: the groups of columns are four segments, and each warp wants the sums of its own.
template <class G, int Groups, bool Apart> struct Segment {
  using Format = typename G::Format;
  static constexpr int kept = Apart ? 1 : Groups;
  float acc[kept][4]; ///< rows r, r, r + 8, r + 8: high and low parts
  int member;         ///< of the team

  PHASEC_DEVICE static Codes load(const u8 *stage, int g, int lane) { return codes8(Format{}, stage + g * Format::granule_bytes, lane); }
  /// Begins to multiply granule g.
  PHASEC_DEVICE static void issue(const Codes &codes, int g, u64 b, float (&d)[Groups][4]) {
    Fragments f = fragments8(Format{}, codes);
    u64 at = b + u64(g * (4 * Operand<G>::core_bytes / 16));
    ptx::wgmma_fence();
    multiply(Format{}, Begin<true>{}, d, f.a[0], at);
    multiply(Format{}, Begin<false>{}, d, f.a[1], at + u64(2 * Operand<G>::core_bytes / 16));
    ptx::wgmma_commit();
  }
  PHASEC_DEVICE void add(const RowScales &s, const float (&d)[Groups][4]) {
#pragma unroll
    for (int j = 0; j < kept; j++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float v = d[j][i];
        if constexpr (Apart) v = member & 2 ? (member & 1 ? d[3][i] : d[2][i]) : member & 1 ? d[1][i] : v;
        acc[j][i] = ptx::fma(v, i < 2 ? s.row : s.row8, acc[j][i]);
      }
  }
  /// Adds granule g, whose sums are under way in `now`, and those behind it; `codes` are the next one's. What lies behind a
  /// shorter segment's `count` is multiplied and forgotten.
  template <int g>
  PHASEC_DEVICE void finish(const u8 *stage, int count, int lane, u64 b, Codes codes, float (&now)[Groups][4], float (&next)[Groups][4]) {
    if constexpr (g + 1 < G::segment_granules) issue(codes, g + 1, b, next);
    if constexpr (g + 2 < G::segment_granules) codes = load(stage, g + 2, lane);
    RowScales scales = row_scales(Format{}, stage + g * Format::granule_bytes, lane);
    ptx::wgmma_wait<(g + 1 < G::segment_granules)>();
    if (g < G::segment_least || g < count) add(scales, now);
    if constexpr (g + 1 < G::segment_granules) finish<g + 1>(stage, count, lane, b, codes, next, now);
  }
  PHASEC_DEVICE void run(const Cta &cta, const u8 *stage, int count, int first) {
    constexpr int along_n = Apart ? G::segment_granules * 4 * Operand<G>::core_bytes : Operand<G>::group_bytes;
    u64 b = ptx::wgmma_operand(Operand<G>::at(cta, 0, first, 0), Operand<G>::core_bytes, along_n);
    float even[Groups][4], odd[Groups][4];
#pragma unroll
    for (int j = 0; j < kept * 4; j++) acc[j / 4][j % 4] = 0.0f;
    member = cta.warp % G::team;
    issue(load(stage, 0, cta.lane), 0, b, even);
    finish<0>(stage, count, cta.lane, b, load(stage, G::segment_granules > 1, cta.lane), even, odd);
  }
};

/// A warp's sums of tokens: of rows r and r + 8, and over a lane's blocks where every column has one.
template <class G> struct TeamSums {
  static constexpr int columns = G::tokens * G::Format::columns, groups = columns <= 8 ? 1 : columns <= 16 ? 2 : 4;
  float total[groups][2];
  float *to;

  PHASEC_DEVICE void begin(float *piece) {
    to = piece;
#pragma unroll
    for (int j = 0; j < groups; j++) total[j][0] = total[j][1] = 0.0f;
  }
  PHASEC_DEVICE void add(const Cta &cta, const u8 *stage, int slot, const gemv::Part &p) {
    if constexpr (gemv::takes_apart<G>())
      if (p.apart >= 0) return add_segment<4, true>(cta, stage, slot, p);
    add_segment<groups, false>(cta, stage, slot, p);
  }
  PHASEC_DEVICE void end(const Cta &cta) const {
    int row = cta.lane >> 2, own = cta.lane & 3;
#pragma unroll
    for (int j = 0; j < groups; j++) {
      float v = total[j][0], v8 = total[j][1];
      if constexpr (Operand<G>::by_block) { // four lanes have a block each
        v = v + ptx::from_bits(ptx::shfl_xor(ptx::bits(v), 1)), v8 = v8 + ptx::from_bits(ptx::shfl_xor(ptx::bits(v8), 1));
        v = v + ptx::from_bits(ptx::shfl_xor(ptx::bits(v), 2)), v8 = v8 + ptx::from_bits(ptx::shfl_xor(ptx::bits(v8), 2));
        if (own != j) continue;
      }
      int token = token_of(j, own);
      if (token >= cta.tokens) continue;
      to[token * weights::kTileRows + row] = v;
      to[token * weights::kTileRows + row + 8] = v8;
    }
  }

private:
  /// The token of a lane's columns in group j.
  PHASEC_DEVICE static int token_of(int j, int own) { return Operand<G>::by_block ? j : 4 * j + own; }
  template <int Groups, bool Apart>
  PHASEC_DEVICE void add_segment(const Cta &cta, const u8 *stage, int slot, const gemv::Part &p) {
    Segment<G, Groups, Apart> segment;
    gemv::Extent e = gemv::extent<G>(slot, p.first);
    segment.run(cta, stage, gemv::extent<G>(slot, p.fold).count, e.begin);
    if (!p.live) return;
#pragma unroll
    for (int j = 0; j < segment.kept; j++) {
      int token = token_of(j, cta.lane & 3);
      float scale = operand::scales<G>(cta)[(token < cta.tokens ? token : 0) * G::segments + p.fold];
      const float (&acc)[4] = segment.acc[j];
      total[j][0] = ptx::fma(ptx::fma(acc[1], 0.0625f, acc[0]), scale, total[j][0]);
      total[j][1] = ptx::fma(ptx::fma(acc[3], 0.0625f, acc[2]), scale, total[j][1]);
    }
  }
};

} // namespace warpgroup
