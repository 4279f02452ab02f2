// pairs.cuh (fast, sm_90a): the staged operand of a team of four warps, in the order in which wgmma reads B. A value is a pair
// of e4m3, high + low / 16: all eight bits of a bf16. A column holds one token and one part. Where a block of weights has a
// scale of its own, a column also holds the k of one block only, with zeros elsewhere: its sums belong to one scale, and no
// weight has to be multiplied before it is summed.
#pragma once
#include "../../gemv.cuh"

namespace warpgroup {

enum : int { kTop = 7 }; ///< operands reach up to [2^7, 2^8); e4m3 ends at 448

/// Whether the operand is staged for teams. The plan has teams only where all tokens' columns are at most 32.
template <class G> inline constexpr bool takes = G::team == 4 && G::Format::columns > 0;

/// Where values lie in shared memory: [group of eight columns][granule][word of a lane's four][column][16 bytes]; byte 4b + i
/// of a column is k = 16b + 4 word + i of the granule.
template <class G> struct Operand {
  static constexpr bool by_block = G::Format::columns == 8;
  static constexpr int core_bytes = by_block ? 128 : 144; ///< a pad keeps the words that are stored one by one off each other's banks
  static constexpr int group_bytes = G::operand_stride / weights::kGranuleK * 4 * core_bytes;

  PHASEC_DEVICE static u8 *at(const Cta &cta, int token, int granule, int word) {
    int column = token * G::Format::columns;
    return (u8 *)gemv::staged<G>(cta) + column / 8 * group_bytes + (granule * 4 + word) * core_bytes + column % 8 * 16;
  }
  /// Stores four values of one token: k, counted from the slot's first, is a multiple of four. `part`: 0 high, 1 low.
  PHASEC_DEVICE static void put(const Cta &cta, int token, int k, int part, u32 codes) {
    int block = k % weights::kGranuleK / 16;
    u8 *to = at(cta, token, k / weights::kGranuleK, k % 16 / 4);
    if constexpr (by_block) {
      Words4 w;
#pragma unroll
      for (int j = 0; j < 4; j++) w.word[j] = j == block ? codes : 0u;
      *(Words4 *)(to + (2 * block + part) * 16) = w;
    } else {
      *(u32 *)(to + part * 16 + block * 4) = codes;
    }
  }
  /// Four values as their high and low parts.
  PHASEC_DEVICE static void store(const Cta &cta, int token, int k, const float *v) {
    u32 high[2], low[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      high[i] = ptx::to_e4m3x2(v[2 * i], v[2 * i + 1]);
      u32 back = ptx::e4m3x2_to_f16x2(high[i]);
      low[i] = ptx::to_e4m3x2((v[2 * i] - ptx::from_f16(back)) * 16.0f, (v[2 * i + 1] - ptx::from_f16_high(back)) * 16.0f);
    }
    put(cta, token, k, 0, high[0] | high[1] << 16);
    put(cta, token, k, 1, low[0] | low[1] << 16);
  }
};

} // namespace warpgroup
