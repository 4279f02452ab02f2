// gemv.cuh: the one matrix-vector engine behind qkv, wo, fc1 and fc2. A CTA owns a contiguous run of units (slot, row tile);
// the segments of its units go to its warps in turn, each through its own ring. The warp that completes a unit's last
// segment folds the unit, in segment order, whoever it is; so the result does not depend on timing or on the CTA count.
#pragma once
#include "fold.cuh"
#include "operand.cuh"
#include "stream.cuh"
#include "weights/layout.cuh"

namespace gemv {

using weights::kGranuleK;
using weights::kTileRows;

enum class Assignment { Balanced, Grid, SlotCta };
enum class Fold { Direct, ElectedWarp, ElectedCta, Consumers };
enum class Scale { None, Multiply, Divide, PerRow };

struct Units {
  int begin, end; ///< slot-major: unit = slot * tiles + tile
};

/// The units of this CTA.
template <class G> PHASEC_DEVICE Units units(const Cta &cta) {
  if (G::assignment == Assignment::SlotCta) {
    int slot = cta.cta < G::slots ? cta.cta : G::slots;
    int end = cta.cta < G::slots ? slot + 1 : slot;
    return Units{slot * G::tiles, end * G::tiles};
  }
  if (G::assignment == Assignment::Grid && cta.ctas >= G::slots) {
    int parts = cta.ctas / G::slots, slot = cta.cta / parts, part = cta.cta % parts;
    if (slot >= G::slots) return Units{0, 0};
    return Units{slot * G::tiles + share(G::tiles, part, parts), slot * G::tiles + share(G::tiles, part + 1, parts)};
  }
  return Units{share(G::slots * G::tiles, cta.cta, cta.ctas), share(G::slots * G::tiles, cta.cta + 1, cta.ctas)};
}

/// One row of the plan's segment table.
struct SegmentRow {
  int granule_begin, granule_end, k_begin, k_end;
};
template <class G> PHASEC_DEVICE SegmentRow segment_row(int slot, int fold) {
  const int *row = G::segment_table() + (slot * G::segments + fold) * 4;
  return SegmentRow{row[0], row[1], row[2], row[3]};
}

/// Fetches the next segment of this warp; false when it has no more in this step.
template <class G> PHASEC_DEVICE bool fetch(const Cta &cta, const u64 *table, Ring<typename G::L> &ring) {
  Units u = units<G>(cta);
  int item = ring.cursor.item * G::warps + cta.warp;
  if (item >= (u.end - u.begin) * G::segments) return false;
  int unit = u.begin + item / G::segments;
  SegmentRow s = segment_row<G>(unit / G::tiles, item % G::segments);
  u32 bytes = u32(s.granule_end - s.granule_begin) * G::Format::granule_bytes;
  const u8 *image = (const u8 *)table[G::weight];
  const u8 *from = image + ((i64)(unit % G::tiles) * G::granules + s.granule_begin) * G::Format::granule_bytes;
  u8 *to = ring.begin(bytes);
  ptx::stream_copy(to, from, bytes, ring.barrier(), true);
  ring.commit();
  ring.cursor.item++;
  return true;
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
    v = scaled<G>(cta, row, v);
    if (G::fold == Fold::Direct) sums[i] = v;
    else if (row < G::rows) G::Slots::at(cta)[((i64)slot * G::tokens + i / kTileRows) * G::rows + row] = v;
  }
  if (G::fold == Fold::ElectedWarp) {
    if (!event::elect_warp(cta, G::elections + tile, G::slots)) return;
    for (int i = cta.lane; i < cta.tokens * kTileRows; i += 32) {
      int row = tile * kTileRows + i % kTileRows;
      if (row < G::rows) sums[i] = fold_slots<G>(cta, i / kTileRows, row);
    }
  }
  if (G::fold == Fold::Direct || G::fold == Fold::ElectedWarp) {
    ptx::sync_warp();
    Finish::template rows<G>(cta, tile, sums);
  }
}

/// Computes this CTA's units. `folded` counts the units the CTA has folded since the launch began: all warps agree on it.
/// Ends with every unit of the CTA stored; the caller signals.
template <class G, class Finish, class Program>
PHASEC_DEVICE void run(const Cta &cta, Ring<typename G::L> &ring, u32 &folded) {
  using Buffers = FoldBuffers<typename G::L>;
  Units u = units<G>(cta);
  if (u.begin == u.end) return;
  u16 *x = (u16 *)(cta.shared + G::operand_offset);
  int items = (u.end - u.begin) * G::segments, item = cta.warp;
#pragma unroll 1
  for (int slot = u.begin / G::tiles; slot * G::tiles < u.end; slot++) {
    G::await(cta, slot);
    ptx::sync_cta(); // nobody reads the previous slot's operand any more
    if (slot == u.begin / G::tiles) G::Transform::template prepare<G>(cta);
    int k0 = segment_row<G>(slot, 0).granule_begin * kGranuleK;
    int k1 = segment_row<G>(slot, G::segments - 1).granule_end * kGranuleK;
    G::Transform::template stage<G>(cta, k0, k1 < G::cols ? k1 : G::cols, k1, x);
    ptx::sync_cta();
    int items_end = ((slot + 1) * G::tiles - u.begin) * G::segments;
#pragma unroll 1
    for (; item < items && item < items_end; item += G::warps) {
      int unit = item / G::segments, fold = item % G::segments;
      SegmentRow s = segment_row<G>(slot, fold);
      const u8 *stage = ring.wait();
      Buffers::acquire(cta, folded + unit);
      float *sums = Buffers::sums(cta, folded + unit);
      core::segment<typename G::Format, G::tokens>(stage, s.granule_begin * kGranuleK, s.k_begin, s.k_end, x,
                                                   G::operand_stride, k0, cta.tokens, sums + fold * G::tokens * kTileRows);
      ring.release();
      stream::advance<Program>(cta, ring);
      if (Buffers::complete(cta, folded + unit, G::segments)) {
        finish_unit<G, Finish>(cta, slot, (u.begin + unit) % G::tiles, sums);
        Buffers::release(cta, folded + unit);
      }
    }
  }
  folded += u.end - u.begin;
}

} // namespace gemv
