// gemv.cuh: the one matrix-vector engine behind qkv, wo, fc1 and fc2. A CTA owns a contiguous run of units (slot, row tile);
// its warps draw the segments of its units, in order, as they come out of the ring. Where a target multiplies by warpgroups,
// teams of four warps take the same segment of four row tiles, in turn. The warp that completes a unit's last segment folds
// the unit, in segment order, whoever it is; where K has several slots, a warp per row tile adds them in slot order when all
// are there. So the result does not depend on timing or on the CTA count.
#pragma once
#include "fold.cuh"
#include "stream.cuh"
#include "weights/layout.cuh"

namespace gemv {

/// One row of the plan's segment table.
struct SegmentRow {
  int granule_begin, granule_end, k_begin, k_end;
};
struct Part;

} // namespace gemv

// What core/<math>/ provides.
namespace operand {
/// Stages what `slot` multiplies; `first`: it is the CTA's first slot of the step. All threads; the caller synchronises.
template <class G> PHASEC_DEVICE void stage(const Cta &cta, int slot, bool first);
} // namespace operand
namespace core {
/// The segment's sums[token * 16 + row], from its granules in `stage` and the staged operand, which begins at k0. A team's warps
/// call together; one whose part is not live has no row tile, reads anything and writes nothing. One warp, or a team.
template <class G>
PHASEC_DEVICE void segment(const Cta &cta, const u8 *stage, const gemv::SegmentRow &s, const gemv::Part &p, int k0, float *sums);
} // namespace core

namespace gemv {

using weights::kGranuleK;
using weights::kTileRows;

enum class Assignment { Balanced, Grid, SlotCta };
enum class Fold { Direct, Tagged, ElectedCta, Consumers, Atomic };
enum class Scale { None, Multiply, Divide, PerRow };

/// What a CTA owns of a step. Row tiles that nobody waits for at once, `late` ones, are the last units of the only slot.
struct Units {
  int begin, end; ///< slot-major: unit = slot * tiles + tile
  int late_begin, late_end; ///< and these, behind them

  PHASEC_DEVICE int count() const { return end - begin + (late_end - late_begin); }
};
template <class G> inline constexpr int late_tiles = G::late_end - G::late_begin;
/// The row tile of unit i of those that a CTA has in a slot.
template <class G> PHASEC_DEVICE int tile_at(const Units &u, int slot, int i) {
  int unit = u.begin + i - slot * G::tiles;
  if constexpr (late_tiles<G> > 0) {
    constexpr int others = G::tiles - late_tiles<G>;
    if (i >= u.end - u.begin) unit = u.late_begin + i - (u.end - u.begin);
    if (unit >= G::late_begin) unit += unit < others ? late_tiles<G> : G::late_begin - others;
  }
  return unit;
}

/// Where group i of a slot-major order begins: units that a team takes together stay together where K is cut, since one that
/// is short of tiles takes as long as a full one.
template <class G> static constexpr int group_tiles() { return G::slots > 1 ? G::team : 1; }
template <class G> PHASEC_DEVICE int group_begin(int i) {
  constexpr int groups = (G::tiles + group_tiles<G>() - 1) / group_tiles<G>();
  int slot = i / groups, tile = (i - slot * groups) * group_tiles<G>();
  return slot * G::tiles + (tile < G::tiles ? tile : G::tiles);
}
/// Splits the units over the CTAs: the share of this one. The first `busy` CTAs are waited for behind this step; if they are
/// few, the others have the late tiles.
template <class G> PHASEC_DEVICE Units share_units(const Cta &cta, int busy = 0) {
  constexpr int groups = (G::tiles + group_tiles<G>() - 1) / group_tiles<G>();
  if (G::assignment == Assignment::SlotCta) {
    int slot = cta.cta < G::slots ? cta.cta : G::slots;
    int end = cta.cta < G::slots ? slot + 1 : slot;
    return Units{slot * G::tiles, end * G::tiles, 0, 0};
  }
  if (G::assignment == Assignment::Grid && cta.ctas >= G::slots) {
    int parts = cta.ctas / G::slots, slot = cta.cta / parts, part = cta.cta % parts;
    if (slot >= G::slots) return Units{0, 0, 0, 0};
    int first = slot * groups;
    return Units{group_begin<G>(first + share(groups, part, parts)), group_begin<G>(first + share(groups, part + 1, parts)), 0, 0};
  }
  if constexpr (late_tiles<G> > 0) {
    constexpr int others = G::tiles - late_tiles<G>;
    Units u{share(others, cta.cta, cta.ctas), share(others, cta.cta + 1, cta.ctas), 0, 0};
    int first = 2 * busy > cta.ctas ? 0 : busy;
    if (cta.cta < first) return u;
    u.late_begin = others + share(late_tiles<G>, cta.cta - first, cta.ctas - first);
    u.late_end = others + share(late_tiles<G>, cta.cta - first + 1, cta.ctas - first);
    return u;
  }
  return Units{group_begin<G>(share(G::slots * groups, cta.cta, cta.ctas)), group_begin<G>(share(G::slots * groups, cta.cta + 1, cta.ctas)), 0, 0};
}

/// The units of this CTA in a step: computed once per launch, since shares are divisions. One thread opens a step. Sixteen bytes
/// of shared memory are a step's.
template <class G> PHASEC_DEVICE Units &units(const Cta &) { return *(Units *)(ptx::shared_base() + G::units_offset + G::step * 16); }
template <class G> PHASEC_DEVICE void open(const Cta &cta, int busy = 0) { units<G>(cta) = share_units<G>(cta, busy); }

template <class G> PHASEC_DEVICE SegmentRow segment_row(int slot, int fold) {
  const int *row = G::segment_table() + (slot * G::segments + fold) * 4;
  return SegmentRow{row[0], row[1], row[2], row[3]};
}

/// k of the first and behind the last granule of a slot: what is staged for it.
template <class G> PHASEC_DEVICE int slot_begin(int slot) { return segment_row<G>(slot, 0).granule_begin * kGranuleK; }
template <class G> PHASEC_DEVICE int slot_end(int slot) { return segment_row<G>(slot, G::segments - 1).granule_end * kGranuleK; }
/// Where the operand of the current slot is staged: 16-bit codes [tokens][operand_stride].
template <class G> PHASEC_DEVICE u16 *staged(const Cta &cta) { return (u16 *)(ptx::shared_base() + G::operand_offset); }

/// The units of u that lie in `slot`: they share an operand.
template <class G> PHASEC_DEVICE Units in_slot(const Units &u, int slot) {
  if constexpr (G::slots == 1) return u;
  int begin = slot * G::tiles, end = begin + G::tiles;
  return Units{begin > u.begin ? begin : u.begin, end < u.end ? end : u.end, 0, 0};
}
/// A warp's part of what a team takes at once: one segment of so many neighbouring units or, of units that are too few for a
/// team, as many segments of one, where the operand has columns left for them.
struct Part {
  int item;       ///< counted from the first unit's in the slot
  int unit, fold; ///< unit counted likewise
  int first;      ///< segment of the team's first warp
  bool live;      ///< false: the team has more warps than units are left
  bool apart;     ///< every warp has a segment of its own
};
/// Whether warps of a team can multiply different segments: those lie equally far apart in the operand.
template <class G> static constexpr bool takes_apart() {
  if constexpr (G::team > 1) return G::Format::columns * G::tokens <= 8 && G::segment_least == G::segment_granules && G::segments >= G::team;
  else return false;
}
template <class G> static constexpr int draws_apart() { return (G::segments + G::team - 1) / G::team; }
/// Whether the last `units` of a slot, too few for a team, are multiplied so: it must save a quarter of the draws.
template <class G> PHASEC_DEVICE bool apart(int units) {
  return takes_apart<G>() && units > 0 && units < G::team && 4 * units * draws_apart<G>() <= 3 * G::segments;
}
/// Part of draw d, of `units` units. The items of a draw follow one another.
template <class G> PHASEC_DEVICE Part part(int units, int d, int member) {
  int whole = units / G::team * G::segments; // draws of whole teams
  if (takes_apart<G>() && d >= whole && apart<G>(units % G::team)) {
    int unit = units / G::team * G::team + (d - whole) / draws_apart<G>(), begin = (d - whole) % draws_apart<G>() * G::team;
    int first = begin < G::segments - G::team ? begin : G::segments - G::team, fold = first + member;
    return Part{unit * G::segments + fold, unit, fold, first, fold >= begin, true};
  }
  int unit = d / G::segments * G::team, fold = d % G::segments, width = units - unit < G::team ? units - unit : G::team;
  bool live = member < width;
  return Part{unit * G::segments + fold * width + (live ? member : 0), unit + (live ? member : 0), fold, fold, live, false};
}
template <class G> PHASEC_DEVICE int draws(int units) {
  if (apart<G>(units % G::team)) return units / G::team * G::segments + units % G::team * draws_apart<G>();
  return (units + G::team - 1) / G::team * G::segments;
}

template <class G> PHASEC_DEVICE int items(const Cta &cta) {
  return units<G>(cta).count() * G::segments;
}
/// What item i of a CTA's step fetches. A slot between two granule bounds may hold no bytes.
template <class G> PHASEC_DEVICE void fetch(const Cta &cta, const u64 *table, int i, Item &item) {
  Units all = units<G>(cta);
  int slot = G::slots == 1 ? 0 : (all.begin + i / G::segments) / G::tiles;
  Units u = in_slot<G>(all, slot);
  int in = i - (u.begin - all.begin) * G::segments, first = in / (G::segments * G::team) * G::team;
  int width = u.count() - first < G::team ? u.count() - first : G::team, rest = in - first * G::segments;
  if (apart<G>(width)) first += rest / G::segments, rest %= G::segments, width = 1;
  int fold = width == 4 ? rest / 4 : width == 3 ? rest / 3 : width == 2 ? rest / 2 : rest; // by constants: the feeder is in a hurry
  int tile = tile_at<G>(u, slot, first + rest - fold * width);
  SegmentRow s = segment_row<G>(slot, fold);
  item.from = (const u8 *)table[G::weight] + ((i64)tile * G::granules + s.granule_begin) * G::Format::granule_bytes;
  item.bytes = u32(s.granule_end - s.granule_begin) * G::Format::granule_bytes;
}

template <class G> PHASEC_DEVICE float scaled(const Cta &cta, int row, float v) {
  if (G::scale == Scale::None) return v;
  const float *scale = (const float *)cta.table[G::scale_entry];
  if (G::scale == Scale::PerRow) return v * scale[row < G::rows ? G::checkpoint_row(row) : 0];
  return G::scale == Scale::Divide ? ptx::div(v, scale[0]) : v * scale[0];
}

/// Sum of a row's slots in slot order. `column` is the row's index.
template <class G> PHASEC_DEVICE float fold_slots(const Cta &cta, int token, int column) {
  const float *p = G::Slots::at(cta) + (i64)token * G::rows + column;
  float sum = p[0];
  for (int slot = 1; slot < G::slots; slot++) sum = sum + p[(i64)slot * G::tokens * G::rows];
  return sum;
}

/// Folds a completed unit and finishes its rows, or leaves the slot for whoever folds the slots. One warp.
template <class G, class Finish> PHASEC_DEVICE void finish_unit(const Cta &cta, int slot, int tile, float *sums) {
#pragma unroll 1
  for (int i = cta.lane; i < cta.tokens * kTileRows; i += 32) {
    float v = sums[i];
    for (int s = 1; s < G::segments; s++) v = v + sums[s * G::tokens * kTileRows + i];
    int row = tile * kTileRows + i % kTileRows;
    v = G::Transform::template finished<G>(cta, i / kTileRows, scaled<G>(cta, row, v));
    i64 at = ((i64)slot * G::tokens + i / kTileRows) * G::rows + row;
    if (G::fold == Fold::Direct) sums[i] = v;
    else if (row >= G::rows) continue;
    else if (G::fold == Fold::Atomic) ptx::add_unordered(G::Slots::at(cta) + (i64)(i / kTileRows) * G::rows + row, v);
    else if (G::fold == Fold::Tagged) ptx::store_tagged((u64 *)G::Slots::at(cta) + at, v, cta.round + 1u);
    else G::Slots::at(cta)[at] = v;
  }
  if constexpr (G::fold == Fold::Atomic) {
    if (!event::elect_warp(cta, G::elections + tile, G::slots)) return;
    for (int i = cta.lane; i < cta.tokens * kTileRows; i += 32)
      if (int row = tile * kTileRows + i % kTileRows; row < G::rows)
        sums[i] = ptx::take_sum(G::Slots::at(cta) + (i64)(i / kTileRows) * G::rows + row); // zero for the next round
  }
  if constexpr (G::fold == Fold::Direct || G::fold == Fold::Atomic) {
    ptx::sync_warp();
    Finish::template rows<G>(cta, tile, sums);
  }
}

/// Sums of up to `N` of a lane's elements of a tile (i, i + 32, ...), each the slots in slot order, once this round's are
/// there: all are asked for before the first is waited for. `sums` takes them.
template <class G, int N> PHASEC_DEVICE void fold_tagged(const Cta &cta, int tile, int i, float *sums) {
  constexpr int batch = G::slots < 4 ? G::slots : 4;
  const u64 *slots = (const u64 *)G::Slots::at(cta);
  float sum[N];
#pragma unroll 1
  for (int first = 0; first < G::slots; first += batch) {
    u64 v[N][batch];
    bool there = false;
    while (!there) {
      there = true;
#pragma unroll
      for (int e = 0; e < N; e++)
#pragma unroll
        for (int s = 0; s < batch; s++) {
          int at = i + 32 * e, row = tile * kTileRows + at % kTileRows;
          if (at < cta.tokens * kTileRows && row < G::rows && first + s < G::slots)
            v[e][s] = ptx::load_tagged(slots + ((i64)(first + s) * G::tokens + at / kTileRows) * G::rows + row);
          else v[e][s] = u64(cta.round + 1u) << 32;
        }
#pragma unroll
      for (int e = 0; e < N; e++)
#pragma unroll
        for (int s = 0; s < batch; s++) there = there && u32(v[e][s] >> 32) == cta.round + 1u;
      if (!there) ptx::spin_pause();
    }
#pragma unroll
    for (int e = 0; e < N; e++)
#pragma unroll
      for (int s = 0; s < batch; s++)
        if (first + s < G::slots) sum[e] = first + s == 0 ? ptx::from_bits(u32(v[e][s])) : sum[e] + ptx::from_bits(u32(v[e][s]));
  }
#pragma unroll
  for (int e = 0; e < N; e++)
    if (i + 32 * e < cta.tokens * kTileRows) sums[i + 32 * e] = sum[e];
}

/// Adds the slots of this warp's share of the row tiles and finishes their rows. A step whose slots are tagged ends with it.
template <class G, class Finish> PHASEC_DEVICE void finish_tiles(const Cta &cta) {
  Units u = units<G>(cta);
  if (u.begin == u.end) // what the rows need besides the slots lies behind the same events
    for (int slot = 0; slot < G::slots; slot++) G::await(cta, slot);
  float *sums = (float *)(ptx::shared_base() + G::tile_offset) + cta.warp * G::tokens * kTileRows;
#pragma unroll 1
  for (int tile = cta.warp * cta.ctas + cta.cta; tile < G::tiles; tile += G::warps * cta.ctas) {
    constexpr int together = G::tokens <= 2 ? 1 : 4;
#pragma unroll 1
    for (int i = cta.lane; i - cta.lane < cta.tokens * kTileRows; i += 32 * together) fold_tagged<G, together>(cta, tile, i, sums);
    ptx::sync_warp();
    Finish::template rows<G>(cta, tile, sums);
    ptx::sync_warp();
  }
}

/// One part of a draw: multiplies, and folds the unit when it was the last. `n`: the unit's number since the launch began.
template <class G, class Finish>
PHASEC_DEVICE void take(const Cta &cta, const Part &p, int slot, int tile, u32 item, u32 n) {
  using Buffers = FoldBuffers<typename G::L>;
  using R = Ring<typename G::L>;
  SegmentRow s = segment_row<G>(slot, p.fold);
  const u8 *stage = p.live ? R::wait(item) : (const u8 *)staged<G>(cta);
  if (p.live && p.unit >= G::fold_buffers) Buffers::acquire(cta, n); // those before the slot are folded
  float *sums = Buffers::sums(cta, n);
  core::segment<G>(cta, stage, s, p, slot_begin<G>(slot), sums + p.fold * G::tokens * kTileRows);
  if (!p.live) return;
  bool complete = Buffers::complete(cta, n, G::segments);
  R::release_behind(cta, item);
  if (complete) {
    finish_unit<G, Finish>(cta, slot, tile, sums);
    Buffers::release(cta, n);
  }
}

/// Computes this CTA's units. `folded` counts the units the CTA has folded since the launch began: all warps agree on it.
/// Ends with every unit of the CTA stored; the caller signals, or adds the slots.
template <class G, class Finish>
PHASEC_DEVICE void run(const Cta &cta, Ring<typename G::L> &ring, u32 &folded) {
  Units all = units<G>(cta);
  if (all.count() == 0) return;
#pragma unroll 1
  for (int slot = G::slots == 1 ? 0 : all.begin / G::tiles; G::slots == 1 ? slot == 0 : slot * G::tiles < all.end; slot++) {
    G::await(cta, slot);
    ptx::sync_workers(G::threads); // nobody reads the previous slot's operand any more
    operand::stage<G>(cta, slot, G::slots == 1 || slot == all.begin / G::tiles);
    ptx::sync_workers(G::threads);
    Units u = in_slot<G>(all, slot);
    int count = u.count();
    if constexpr (G::team > 1) { // teams are equally fast: each takes its turn
#pragma unroll 1
      for (int d = cta.warp / G::team; d < draws<G>(count); d += G::warps / G::team) {
        Part p = part<G>(count, d, cta.warp % G::team);
        take<G, Finish>(cta, p, slot, tile_at<G>(u, slot, p.unit), ring.first + u32(p.item), folded + u32(p.unit));
      }
    } else {
      u32 drawn = ptx::shfl(ring.draw(cta), 0);
#pragma unroll 1
      while (int(drawn) < draws<G>(count)) {
        u32 following = ring.draw(cta);
        Part p = part<G>(count, int(drawn), 0);
        take<G, Finish>(cta, p, slot, tile_at<G>(u, slot, p.unit), ring.first + u32(p.item), folded + u32(p.unit));
        drawn = ptx::shfl(following, 0);
      }
      ring.skip(draws<G>(count));
    }
    folded += u32(count);
    ring.first += u32(count) * G::segments;
  }
}

} // namespace gemv
