// gemv.cuh: the one matrix-vector engine behind qkv, wo, fc1 and fc2. A CTA owns a contiguous run of units (slot, row tile).
// Their segments, unit after unit, are a list of turns, which its workers cut into runs of equal length (stream-K: Osama et al.,
// 2023). A worker, a warp, keeps the sums of its run in registers; the ring brings the first turn of every worker, then the second. Of a unit
// that a cut divides, the warp that comes last adds the pieces in order; where K has several slots, a warp per row tile adds them
// in slot order when all are there. So the result does not depend on timing.
#pragma once
#include "fold.cuh"
#include "stream.cuh"
#include "weights/layout.cuh"

// What core/<math>/ provides.
namespace operand {
/// Stages what `slot` multiplies; `first`: it is the CTA's first slot of the step. All threads; the caller synchronises.
/// A warp that waits for values calls idle() between two looks.
template <class G, class Idle> PHASEC_DEVICE void stage(const Cta &cta, int slot, bool first, const Idle &idle);
} // namespace operand
namespace core {
/// A warp's sums over segments of a row tile. `whole`: a unit's segments must all be one worker's. begin(piece) starts a unit;
/// take(stage, lane) takes a segment's granules, as a copy if `copies`: then the stage is not needed any more; add(cta, slot, fold)
/// multiplies what was taken last with the staged operand and adds; end() leaves the sums in piece[token * 16 + row]. If `early`, a
/// warp may take a segment while it stages the operand, behind clear().
template <class G> struct Sums;
} // namespace core

namespace gemv {

using weights::kGranuleK;
using weights::kTileRows;

/// One row of the plan's segment table.
struct SegmentRow {
  int granule_begin, granule_end, k_begin, k_end;
};

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
/// The row tile of a unit, counted from the slot's first.
template <class G> PHASEC_DEVICE int tile_of(int unit) {
  if constexpr (late_tiles<G> > 0) {
    constexpr int others = G::tiles - late_tiles<G>;
    if (unit >= G::late_begin) unit += unit < others ? late_tiles<G> : G::late_begin - others;
  }
  return unit;
}

/// Balanced units where each slot has CTAs of its own, if none gets more than it would otherwise: who has the end of a slot and the beginning
/// of the next stages two operands, and the others wait for it.
template <class G> PHASEC_DEVICE bool divides_slots(int ctas) {
  int fewest = ctas / G::slots;
  return G::slots > 1 && fewest > 0 && (G::tiles + fewest - 1) / fewest <= (G::slots * G::tiles + ctas - 1) / ctas;
}

/// Splits the units over the CTAs: the share of this one. Attention's units are the first CTAs', which are late behind it: where balanced
/// shares, of all units or of a slot's, differ by one, theirs are the smaller ones. The first `busy` CTAs are waited for behind this step; if
/// they are few, the others have the late tiles.
template <class G> PHASEC_DEVICE Units share_units(int cta, int ctas, int busy = 0) {
  if (G::assignment == Assignment::SlotCta) {
    int slot = cta < G::slots ? cta : G::slots;
    int end = cta < G::slots ? slot + 1 : slot;
    return Units{slot * G::tiles, end * G::tiles, 0, 0};
  }
  if (G::assignment == Assignment::Grid && ctas >= G::slots) {
    int parts = ctas / G::slots, slot = cta / parts, part = cta % parts;
    if (slot >= G::slots) return Units{0, 0, 0, 0};
    return Units{slot * G::tiles + share(G::tiles, part, parts), slot * G::tiles + share(G::tiles, part + 1, parts), 0, 0};
  }
  if constexpr (late_tiles<G> > 0) {
    constexpr int others = G::tiles - late_tiles<G>;
    Units u{share_rising(others, cta, ctas), share_rising(others, cta + 1, ctas), 0, 0};
    int first = 2 * busy > ctas ? 0 : busy;
    if (cta < first) return u;
    u.late_begin = others + share(late_tiles<G>, cta - first, ctas - first);
    u.late_end = others + share(late_tiles<G>, cta - first + 1, ctas - first);
    return u;
  }
  if (divides_slots<G>(ctas)) {
    if constexpr (G::tokens > 8) cta = ptx::unknown(cta); // else Llama-8B's kernel for sixteen spills on sm_100a
    int slot = cta % G::slots, part = cta / G::slots, parts = (ctas - slot + G::slots - 1) / G::slots;
    return Units{slot * G::tiles + share_rising(G::tiles, part, parts), slot * G::tiles + share_rising(G::tiles, part + 1, parts), 0, 0};
  }
  return Units{share_rising(G::slots * G::tiles, cta, ctas), share_rising(G::slots * G::tiles, cta + 1, ctas), 0, 0};
}

/// The units of this CTA in a step: computed once per launch, since shares are divisions. Sixteen bytes of shared memory are a step's.
template <class G> PHASEC_DEVICE Units &units(const Cta &) { return *(Units *)(ptx::shared_base() + G::units_offset + G::step * 16); }

template <class G> PHASEC_DEVICE SegmentRow segment_row(int slot, int fold) {
  const int *row = G::segment_table() + (slot * G::segments + fold) * 4;
  return SegmentRow{row[0], row[1], row[2], row[3]};
}

/// Granules of a segment, counted from the slot's first: no look-up where all segments are equally long.
struct Extent {
  int begin, count;
};
template <class G> PHASEC_DEVICE Extent extent(int slot, int fold) {
  if constexpr (G::segment_least == G::segment_granules) return Extent{fold * G::segment_granules, G::segment_granules};
  SegmentRow s = segment_row<G>(slot, fold);
  return Extent{s.granule_begin - segment_row<G>(slot, 0).granule_begin, s.granule_end - s.granule_begin};
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
template <class G> PHASEC_DEVICE int first_slot(const Units &u) { return G::slots == 1 ? 0 : u.begin / G::tiles; }

/// Units of a slot that are computed together: those that are waited for, then the late ones.
struct Pass {
  int unit, units; ///< the first, counted from the slot's
};
template <class G> static constexpr int passes() { return late_tiles<G> > 0 ? 2 : 1; }
template <class G> PHASEC_DEVICE Pass pass_of(const Units &u, int slot, int pass) {
  return pass == 0 ? Pass{u.begin - slot * G::tiles, u.end - u.begin} : Pass{u.late_begin, u.late_end - u.late_begin};
}

template <class G> PHASEC_DEVICE int turns(int units) { return units * G::segments; }

/// How the workers cut a pass's turns: into runs of equal length, up to one grain. The stream has their first turns, then their
/// second, and so on.
template <class G> struct Cut {
  static constexpr int grain = core::Sums<G>::whole ? G::segments : 1;
  int least; ///< turns that every worker has
  int more;  ///< so many workers, the first, have a grain more

  PHASEC_DEVICE explicit Cut(int turns) : least(turns / grain / G::warps * grain), more(turns / grain % G::warps) {}
  PHASEC_DEVICE explicit Cut(const Stretch &s) : least(s.least), more(s.more) {}
  PHASEC_DEVICE int begin(int worker) const { return worker * least + (worker < more ? worker : more) * grain; }
  PHASEC_DEVICE int count(int worker) const { return least + (worker < more ? grain : 0); }
  /// Where a worker's turn i stands in the stream, and which turn stands at n.
  PHASEC_DEVICE int place(int worker, int i) const {
    return grain == 1 || i < least ? i * G::warps + worker : least * G::warps + (i - least) * more + worker;
  }
  PHASEC_DEVICE int at(int n) const {
    if (n < least * G::warps) return begin(n % G::warps) + n / G::warps;
    n -= least * G::warps;
    return grain == 1 ? begin(n) + least : begin(n % more) + least + n / more;
  }
};

/// Opens a step, behind open_empty(): the CTA's units, and what it streams of them. One thread.
template <class G> PHASEC_DEVICE void open(const Cta &cta, int busy = 0) {
  Units all = units<G>(cta) = share_units<G>(cta.cta, ptx::ctas(), busy);
  if (all.count() == 0) return;
  auto write = [&](int stretch, int slot, int slots, int p) {
    Pass pass = pass_of<G>(in_slot<G>(all, slot), slot, p);
    Cut<G> cut(turns<G>(pass.units));
    stream::stretches<typename G::L>(G::step)[stretch] = Stretch{turns<G>(pass.units), slots, slot, pass.unit, cut.least, cut.more};
  };
  if constexpr (passes<G>() > 1) return write(0, 0, 1, 0), write(1, 0, 1, 1);
  int first = first_slot<G>(all), last = G::slots == 1 ? first : (all.end - 1) / G::tiles;
  write(0, first, 1, 0);
  if (last > first + 1) write(1, first + 1, last - first - 1, 0);
  if (last > first) write(2, last, 1, 0);
}
/// What item i of a stretch fetches. A slot between two granule bounds may hold no bytes.
template <class G> PHASEC_DEVICE void fetch(const u64 *table, const Stretch &s, int i, Item &item) {
  int slot = s.slot;
  if (G::slots > 1 && s.slots > 1) slot += i / s.items, i %= s.items;
  int turn = Cut<G>(s).at(i), tile = tile_of<G>(s.unit + turn / G::segments);
  SegmentRow row = segment_row<G>(slot, turn % G::segments);
  item.from = (const u8 *)table[G::weight] + ((i64)tile * G::granules + row.granule_begin) * G::Format::granule_bytes;
  item.bytes = u32(row.granule_end - row.granule_begin) * G::Format::granule_bytes;
}

/// The scale of a lane's rows of a tile (i, i + 32, ...): asked for before their sums are there.
template <class G> PHASEC_DEVICE float row_scale(const Cta &cta, int tile) {
  if (G::scale == Scale::None) return 1.0f;
  int row = tile * kTileRows + cta.lane % kTileRows;
  return ((const float *)cta.table[G::scale_entry])[G::scale == Scale::PerRow && row < G::rows ? G::checkpoint_row(row) : 0];
}
template <class G> PHASEC_DEVICE float scaled(float v, float scale) {
  if (G::scale == Scale::None) return v;
  return G::scale == Scale::Divide ? ptx::div(v, scale) : v * scale;
}

/// Sum of a row's slots in slot order. `column` is the row's index.
template <class G> PHASEC_DEVICE float fold_slots(const Cta &cta, int token, int column) {
  const float *p = G::Slots::at(cta) + (i64)token * G::rows + column;
  float sum = p[0];
  for (int slot = 1; slot < G::slots; slot++) sum = sum + p[(i64)slot * G::tokens * G::rows];
  return sum;
}

/// The workers that have segments of a unit, whose turns are [begin, end): each lays down a piece, the first one where its last unit begins.
struct Sharers {
  int first, last;

  template <class G> PHASEC_DEVICE Sharers(const Cut<G> &cut, int worker, int begin, int end) : first(worker), last(worker) {
    if constexpr (G::segments > 1) { // else nobody shares
      while (cut.begin(first) > begin) first--;
      while (cut.begin(last + 1) < end) last++;
    }
  }
  PHASEC_DEVICE int count() const { return last - first + 1; }
  template <class G> PHASEC_DEVICE float *piece(int worker) const {
    using P = Pieces<typename G::L>;
    return P::of(worker, worker == first ? P::kBegun : P::kJoined);
  }
};
/// Adds a completed unit's pieces in order and finishes its rows, or leaves the slot for whoever adds the slots. One warp.
template <class G, class Finish> PHASEC_DEVICE void finish_unit(const Cta &cta, int slot, int tile, const Sharers &s, float scale) {
  float *sums = s.piece<G>(s.first);
#pragma unroll 1
  for (int i = cta.lane; i < cta.tokens * kTileRows; i += 32) {
    float v = sums[i];
#pragma unroll 1
    for (int w = s.first + 1; w <= s.last; w++) v = v + s.piece<G>(w)[i];
    int row = tile * kTileRows + i % kTileRows;
    v = G::Transform::template finished<G>(cta, i / kTileRows, scaled<G>(v, scale));
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
/// there: all are asked for before the first is waited for, of one element eight slots, of several four. `sums` takes them.
template <class G, int N> PHASEC_DEVICE void fold_tagged(const Cta &cta, int tile, int i, float *sums) {
  constexpr int most = N == 1 ? 8 : 4, batch = G::slots < most ? G::slots : most;
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

/// Adds the slots of this warp's share of the row tiles and finishes their rows. A step whose slots are tagged ends with it. The last CTAs
/// have one more, as with shares.
template <class G, class Finish> PHASEC_DEVICE void finish_tiles(const Cta &cta) {
  Units u = units<G>(cta);
  if (u.begin == u.end) // what the rows need besides the slots lies behind the same events
    for (int slot = 0; slot < G::slots; slot++) G::await(cta, slot);
  float *sums = (float *)(ptx::shared_base() + G::tile_offset) + cta.warp * G::tokens * kTileRows;
#pragma unroll 1
  for (int tile = (cta.warp + 1) * ptx::ctas() - 1 - cta.cta; tile < G::tiles; tile += G::warps * ptx::ctas()) {
    if constexpr (G::tokens * kTileRows <= 32 && requires { typename Finish::template Element<G>; }) {
      typename Finish::template Element<G> element; // what it needs besides the sum comes meanwhile
      element.ask(cta, tile);
      fold_tagged<G, 1>(cta, tile, cta.lane, sums);
      element.finish(cta, sums);
    } else {
      constexpr int together = G::tokens <= 2 ? 1 : 4;
#pragma unroll 1
      for (int i = cta.lane; i - cta.lane < cta.tokens * kTileRows; i += 32 * together) fold_tagged<G, together>(cta, tile, i, sums);
      ptx::sync_warp();
      Finish::template rows<G>(cta, tile, sums);
      ptx::sync_warp();
    }
  }
}

/// A worker's run of a pass's turns.
template <class G> struct Run {
  Cut<G> cut;
  int begin, end;

  PHASEC_DEVICE Run(const Cta &cta, const Pass &pass) : cut(turns<G>(pass.units)), begin(cut.begin(cta.warp)), end(begin + cut.count(cta.warp)) {}
};

/// Computes a run; the pass's first item has the number `first`. `taken`: `sums` already have the run's first segment.
template <class G, class Finish>
PHASEC_DEVICE void compute(const Cta &cta, int slot, const Pass &pass, const Run<G> &run, u32 first, core::Sums<G> &sums, bool taken) {
  using R = Ring<typename G::L>;
#pragma unroll 1
  for (int d = run.begin; d < run.end;) { // by units
    int unit = d / G::segments, begin = unit * G::segments, end = begin + G::segments;
    Sharers all(run.cut, cta.warp, begin, end);
    int tile = tile_of<G>(pass.unit + unit);
    float scale = row_scale<G>(cta, tile);
    ptx::sync_warp(); // the last unit's sums have been read
    sums.begin(all.piece<G>(cta.warp));
    int stop = end < run.end ? end : run.end;
#pragma unroll 1
    for (; d < stop; d++) {
      u32 item = first + u32(run.cut.place(cta.warp, d - run.begin));
      if (!taken) {
        sums.take(R::wait(item), cta.lane);
        if (sums.copies) R::release(cta, item);
      }
      taken = false;
      sums.add(cta, slot, d - begin);
      if (!sums.copies) R::release(cta, item);
    }
    sums.end(cta);
    if (all.count() > 1 && !Pieces<typename G::L>::complete(cta, all.first, u32(all.count()))) continue;
    ptx::sync_warp();
    finish_unit<G, Finish>(cta, slot, tile, all, scale);
  }
}

/// Computes this CTA's units. Ends with every unit of the CTA stored; the caller signals, or adds the slots.
template <class G, class Finish> PHASEC_DEVICE void run(const Cta &cta) {
  using R = Ring<typename G::L>;
  const Units &all = units<G>(cta); // read where it is needed
  if (all.count() == 0) return;
#pragma unroll 1
  for (int slot = first_slot<G>(all); G::slots == 1 ? slot == 0 : slot * G::tiles < all.end; slot++) {
    Run<G> run(cta, pass_of<G>(in_slot<G>(all, slot), slot, 0)); // before the CTA waits, not behind
    run.begin = ptx::unknown(run.begin), run.end = ptx::unknown(run.end);
    core::Sums<G> sums;
    bool taken = false;
    if constexpr (core::Sums<G>::early) sums.clear();
    G::await(cta, slot);
    ptx::sync_workers(G::threads); // nobody reads the previous slot's operand or pieces any more
    auto take_early = [&] {
      if constexpr (core::Sums<G>::early) {
        u32 item = R::first() + u32(ptx::warp());
        if (taken || run.begin == run.end || !R::ready(item)) return;
        sums.take(R::wait(item), cta.lane);
        R::release(cta, item);
        taken = true;
      }
    };
    operand::stage<G>(cta, slot, slot == first_slot<G>(all), take_early);
    take_early(); // who stages nothing, or has not had to wait
    ptx::sync_workers(G::threads);
    Units u = in_slot<G>(all, slot);
#pragma unroll 1
    for (int p = 0; p < passes<G>(); p++) {
      Pass pass = pass_of<G>(u, slot, p);
      if (p > 0) {
        ptx::sync_workers(G::threads); // nor the previous pass's pieces
        run = Run<G>(cta, pass);
      }
      compute<G, Finish>(cta, slot, pass, run, R::first(), sums, taken);
      taken = false;
      R::advance(u32(turns<G>(pass.units)));
    }
  }
}

} // namespace gemv
