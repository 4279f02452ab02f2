// stream.cuh: the byte stream. A CTA owns a ring of stages in shared memory; its last warps, the feeders, fill them, each lane the
// items that are its own, in the plan's order: every weight segment that the CTA will compute with, across phases and instances, gated by
// nothing but free stages. What it fetches never depends on activations, so loads stay in flight while the CTA waits for an
// event. Which warp reads an item is fixed: workers take turns. KV rows come one by one and belong to few warps at a time:
// attention borrows the stages and fills them itself, in the same order.
#pragma once
#include "cta.cuh"

/// Where a feeder's lane stands in the stream. Items are numbered from the start of the launch: item n lies in stage
/// n % stages.
struct Cursor {
  int instance, step, call; ///< step counts over all bodies, call over the steps of all instances
  int stretch;              ///< of the step
  u32 first;                ///< number of the stretch's first item
  u32 next;                 ///< number of the lane's next item
};

/// Items of a step that are looked up alike: the turns of a GEMV's pass in a slot, or in several slots of which the CTA has all; or those
/// that attention fills itself. What a launch streams is written down once, so that a feeder has little to do for an item.
struct Stretch {
  int items, slots; ///< of a slot, and how many slots
  int slot, unit;   ///< the first, and its first unit; of attention, how many units the launch has
  int least, more;  ///< how its workers cut its turns
};
enum : int { kStretches = 3 }; ///< of a step: a slot that the CTA has the end of, those between, one that it has the beginning of; or two passes

/// What fills a stage.
struct Item {
  const u8 *from;
  u32 bytes;
  bool behind_rows; ///< attention has more items of its own just before it than the ring has stages
};

/// The working warps' end of the ring. All of them agree on what it holds.
template <class L> struct Ring {
  /// Number of the step's first item. Every warp counts for itself, in shared memory: a register would hold it around everything.
  PHASEC_DEVICE static u32 *counted(int warp) { return (u32 *)(ptx::shared_base() + L::reads_offset) + L::stages + warp; }
  PHASEC_DEVICE static u32 first() { return ptx::peek_shared(counted(ptx::warp())); }
  /// So many items of the step are behind the warp. All lanes.
  PHASEC_DEVICE static void advance(u32 items) {
    ptx::sync_warp();
    if (ptx::lane() == 0) *counted(ptx::warp()) += items;
    ptx::sync_warp();
  }

  PHASEC_DEVICE static u8 *stage(u32 n) { return ptx::shared_base() + L::ring_offset + n % L::stages * L::stage_bytes; }
  /// Complete when item n has landed.
  PHASEC_DEVICE static u64 *full(u32 n) { return (u64 *)(ptx::shared_base() + L::barriers_offset) + n % L::stages; }
  /// How often the stage of item n has been read. No parity: who fills a stage may look only after it was used twice.
  PHASEC_DEVICE static u32 *reads(u32 n) { return (u32 *)(ptx::shared_base() + L::reads_offset) + n % L::stages; }
  /// Whether what lay in its stage before item n has been read.
  PHASEC_DEVICE static bool free(u32 n) { return ptx::load_shared_acquire(reads(n)) == n / L::stages; }

  /// Whether that, or item n as well, when its stage was read so often: attention fills items of its own and reads them, which no feeder
  /// may have looked at yet.
  PHASEC_DEVICE static bool due(u32 n, u32 reads) { return i32(reads - n / L::stages) >= 0; }

  /// Whether item n has landed, when its stage was read so often: what the lane that filled it asks. No branch: all lanes look.
  PHASEC_DEVICE static bool landed(u32 n, u32 reads) { return ptx::mbar_test(full(n), n / L::stages % 2u) | (reads != n / L::stages); }

  /// Whether item n lies in its stage: what the warp asks that will read it. All lanes call and agree.
  PHASEC_DEVICE static bool ready(u32 n) {
    return !ptx::any(ptx::peek_shared(reads(n)) != n / L::stages || !ptx::mbar_test(full(n), n / L::stages % 2u));
  }

  /// One warp, before a barrier.
  PHASEC_DEVICE static void open(const Cta &cta) {
    for (int i = cta.lane; cta.warp == 0 && i < L::stages; i += 32) {
      ptx::mbar_init(full(u32(i)), 1);
      *reads(u32(i)) = 0;
    }
    if (cta.warp == 0 && cta.lane < L::warps) *counted(cta.lane) = 0;
    ptx::mbar_init_fence();
  }
  /// Item n, once its bytes have landed. A warp may be far ahead of one that is slow: while the stage still belongs to an
  /// earlier item, the barrier's parity says nothing about n. That is rare, so it is looked at beside the wait.
  PHASEC_DEVICE static const u8 *wait(u32 n) {
    u32 lap = ptx::peek_shared(reads(n));
    ptx::stream_wait(full(n), (n / L::stages) & 1u);
    if (lap != n / L::stages) {
      while (!free(n)) ptx::spin_pause();
      ptx::mbar_wait(full(n), (n / L::stages) & 1u);
    }
    return stage(n);
  }
  /// Waits until item n may be filled. One warp.
  PHASEC_DEVICE static void wait_free(const Cta &cta, u32 n) {
    if (cta.lane == 0)
      while (!free(n)) ptx::spin_pause();
    ptx::sync_warp();
  }
  /// The warp has read item n; its stage may be filled again.
  PHASEC_DEVICE static void release(const Cta &cta, u32 n) {
    ptx::sync_warp();
    if (cta.lane == 0) ptx::publish(reads(n), n / L::stages + 1u);
  }
  /// Two items.
  PHASEC_DEVICE static void release(const Cta &cta, u32 n, u32 m) {
    ptx::sync_warp();
    if (cta.lane == 0) ptx::publish(reads(n), n / L::stages + 1u, reads(m), m / L::stages + 1u);
  }
};

namespace stream {

/// Lanes of all feeders that have items: no more than stages. Neighbouring items are different feeders': they are looked up and
/// copied at the same time.
template <class L> inline constexpr int lanes = L::stages < 32 * L::feeders ? L::stages : 32 * L::feeders;
template <class L> PHASEC_DEVICE int feeder(const Cta &cta) { return cta.warp - L::warps; }
/// A feeder's copies of instances' tables: lanes are at most two instances apart, and the next one is there in time.
enum : int { kTables = 4 };
template <class L> PHASEC_DEVICE u64 *table(const Cta &cta, int instance) {
  return (u64 *)(ptx::shared_base() + L::feeder_tables_offset) + (feeder<L>(cta) * kTables + instance % kTables) * L::table_entries;
}

/// Rounds without a copy from one prefetch of a feeder to its next.
enum : u32 { kPrefetchRounds = 2 };

/// The stretches of a step. A thread opens a step before the CTA's barrier.
template <class L> PHASEC_DEVICE Stretch *stretches(int step) { return (Stretch *)(ptx::shared_base() + L::stretches_offset) + step * kStretches; }

/// A step that streams nothing. One thread.
template <class L> PHASEC_DEVICE void open_empty(int step) {
  for (int i = 0; i < kStretches; i++) stretches<L>(step)[i] = Stretch{};
}

/// The lane's next item; false when there is none before instance `end`. The rendered Program knows the items of a stretch, save those that
/// attention fills.
template <class Program, class L> PHASEC_DEVICE bool next(const Cta &cta, Cursor &c, Item &item, int end) {
  item.behind_rows = false;
  while (c.instance < end) {
    const Stretch &s = stretches<L>(c.step)[c.stretch];
    u32 items = cta.runs(c.call) ? u32(s.items * s.slots) : 0u, i = c.next - c.first;
    if (i < items) {
      if (Program::fetch(table<L>(cta, c.instance), c.step, s, int(i), item)) return true;
      item.behind_rows = items > u32(L::stages);
      c.next += (items - i + u32(lanes<L> - 1)) / u32(lanes<L>) * u32(lanes<L>);
    }
    c.first += items;
    if (++c.stretch < kStretches) continue;
    c.stretch = 0;
    c.call += Program::calls(c.step);
    if (++c.step == Program::steps_end(c.instance)) {
      if (++c.instance < L::instances) c.step = Program::steps_begin(c.instance);
    }
  }
  return false;
}

/// What a feeder does from the start of the launch to the end of the stream. One warp. To look items up takes long, however few lanes
/// do: so it is put off until nothing can be filled and a lane is late, or several have come together. Where the window is less than the
/// ring, no item is filled that is a window or more ahead of one of this feeder's that has not landed. A lane that waits for its copy to land
/// does not look whether its next stage is free, which it seldom is before. While nothing is under way and nothing can be filled, memory would
/// stand still: where the plan says so (`prefetches`) the next items come to L2 meanwhile.
template <class Program, class L> PHASEC_DEVICE void feed(const Cta &cta) {
  using R = Ring<L>;
  int id = cta.lane * L::feeders + feeder<L>(cta);
  Cursor cursor{0, L::first_step, 0, 0, 0, u32(id)};
  Item item{};
  int tables = 0; // instances whose tables are there
  bool more = id < lanes<L>, ready = false;
  u32 last = ~0u;     // the lane's item that has not landed, if there is one
  u32 idle = 0;       // rounds since something was filled
  bool asked = false; // the lane's next item is in L2 or on its way there
  for (;;) {
    u32 look = last != ~0u ? last : cursor.next, reads = ptx::load_shared_acquire(R::reads(look));
    bool due = more && last == ~0u && R::due(look, reads), may = true;
    if constexpr (L::window < L::stages) {
      bool landed = R::landed(look, reads);
      if (landed) last = ~0u;
      u32 oldest = ptx::least(last != ~0u ? last : ready ? cursor.next : ~0u);
      may = cursor.next - oldest < u32(L::window);
    }
    bool mine = due && ready && may;
    if (ptx::any(mine)) {
      ptx::stream_expect(mine, R::full(cursor.next), item.bytes);
      ptx::stream_copy(mine && item.bytes > 0, R::stage(cursor.next), item.from, item.bytes, R::full(cursor.next));
      ptx::stream_commit(mine, R::full(cursor.next));
      if (mine && L::window < L::stages) last = cursor.next;
      if (mine) cursor.next += u32(lanes<L>), ready = asked = false;
      idle = 0;
    } else if (!ptx::any(more && !ready && (due || cta.lane % 8 == 7))) {
      if (!ptx::any(more)) return;
      if constexpr (L::prefetches)
        if (++idle % kPrefetchRounds == 0 && !ptx::any(last != ~0u)) {
          bool late = ready && !due && !asked && !item.behind_rows;
          u32 first = ptx::least(late ? cursor.next : ~0u);
          bool next = late && cursor.next == first;
          ptx::stream_prefetch(next && item.bytes > 0, item.from, item.bytes);
          asked = asked || next;
        }
      ptx::feeder_pause();
    } else {
      while (ptx::any(more && !ready)) {
        while (tables < L::instances && ptx::any(more && cursor.instance + 1 >= tables)) {
          for (int i = cta.lane; i < L::table_entries; i += 32) table<L>(cta, tables)[i] = cta.launch_table[(i64)tables * L::table_entries + i];
          ptx::sync_warp();
          tables++;
        }
        if (more && !ready) {
          ready = next<Program, L>(cta, cursor, item, tables);
          more = ready || cursor.instance < L::instances;
        }
      }
    }
  }
}

} // namespace stream
