// warpgroup.cuh (fast, sm_90a): segments of four neighbouring row tiles by a team of four warps. A granule is two m64k32
// of 8-bit floats: A is the weights of each warp's sixteen rows as its lanes own them, B the staged pairs of all four. The
// order of k inside a granule is a permutation that both sides share: lane c of four has k 16c .. 16c + 15.
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

} // namespace core

namespace warpgroup {

/// The A operands of a granule's two m64k32.
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
template <class G, int Groups, bool Apart> struct Product {
  using Format = typename G::Format;
  static constexpr int kept = Apart ? 1 : Groups;
  float acc[kept][4]; ///< rows r, r, r + 8, r + 8: high and low parts
  int member;         ///< of the team

  using Codes = core::Codes;

  /// Begins to multiply granule g.
  PHASEC_DEVICE static void issue(const Codes &codes, int g, u64 b, float (&d)[Groups][4]) {
    Fragments f = fragments8(Format{}, codes);
    u64 at = b + u64(g * (4 * Operand<G>::core_bytes / 16));
#pragma unroll
    for (int i = 0; i < 8; i++) f.a[i / 4][i % 4] = u32(ptx::unknown(int(f.a[i / 4][i % 4]))); // computed before the fence
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
  /// Adds granule g, whose sums are under way in `now`, and those behind it. What lies behind a shorter segment's `count` is
  /// multiplied and forgotten.
  template <int g>
  PHASEC_DEVICE void finish(const Codes (&codes)[G::segment_granules], int count, u64 b, float (&now)[Groups][4], float (&next)[Groups][4]) {
    constexpr bool more = g + 1 < G::segment_granules;
    if constexpr (more) issue(codes[g + 1], g + 1, b, next);
    RowScales scales = row_scales(Format{}, codes[g]);
    ptx::wgmma_wait<more>();
    if (g < G::segment_least || g < count) add(scales, now);
    if constexpr (more) finish<g + 1>(codes, count, b, next, now);
  }
  PHASEC_DEVICE void run(const Cta &cta, const Codes (&codes)[G::segment_granules], int count, int first) {
    constexpr int along_n = Apart ? G::segment_granules * 4 * Operand<G>::core_bytes : Operand<G>::group_bytes;
    u64 b = ptx::wgmma_operand(Operand<G>::at(cta, 0, first, 0), Operand<G>::core_bytes, along_n);
    float even[Groups][4], odd[Groups][4];
#pragma unroll
    for (int j = 0; j < kept * 4; j++) acc[j / 4][j % 4] = 0.0f;
    member = cta.warp % G::team;
    issue(codes[0], 0, b, even);
    finish<0>(codes, count, b, even, odd);
  }
};

/// A warp's sums of tokens: of rows r and r + 8, and over a lane's blocks where every column has one.
template <class G> struct TeamSums : core::Segment<G> {
  static constexpr int columns = G::tokens * G::Format::columns, groups = columns <= 8 ? 1 : columns <= 16 ? 2 : 4;
  float total[groups][2];
  float *to;

  PHASEC_DEVICE void begin(float *piece) {
    to = piece;
#pragma unroll
    for (int j = 0; j < groups; j++) total[j][0] = total[j][1] = 0.0f;
  }
  PHASEC_DEVICE void add(const Cta &cta, int slot, const gemv::Part &p) {
    if constexpr (gemv::takes_apart<G>())
      if (p.apart >= 0) return add_segment<4, true>(cta, slot, p);
    add_segment<groups, false>(cta, slot, p);
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
  template <int Groups, bool Apart> PHASEC_DEVICE void add_segment(const Cta &cta, int slot, const gemv::Part &p) {
    Product<G, Groups, Apart> product;
    gemv::Extent e = gemv::extent<G>(slot, p.first);
    product.run(cta, this->codes, gemv::extent<G>(slot, p.fold).count, e.begin);
    if (!p.live) return;
#pragma unroll
    for (int j = 0; j < product.kept; j++) {
      int token = token_of(j, cta.lane & 3);
      float scale = operand::scales<G>(cta)[(token < cta.tokens ? token : 0) * G::segments + p.fold];
      const float (&acc)[4] = product.acc[j];
      total[j][0] = ptx::fma(ptx::fma(acc[1], 0.0625f, acc[0]), scale, total[j][0]);
      total[j][1] = ptx::fma(ptx::fma(acc[3], 0.0625f, acc[2]), scale, total[j][1]);
    }
  }
};

} // namespace warpgroup
