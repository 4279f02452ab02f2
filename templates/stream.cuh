// stream.cuh: the byte stream. Each working warp owns a ring of stages in shared memory; the CTA's last warp, the feeder, fills
// them, lane r the ring of warp r, in the plan's order: every weight segment that the warp will compute with, across phases
// and instances, gated by nothing but free stages. What it fetches never depends on activations, so loads stay in flight
// while the CTA waits for an event. KV rows come one by one and belong to few warps at a time: attention borrows the stages
// and fills them itself, in the same order.
#pragma once
#include "cta.cuh"

/// Where a ring's stream stands: the next item to fetch.
struct Cursor {
  int instance, step, call; ///< step counts over all bodies, call over the steps of all instances
  int unit;                 ///< of the step; -1 before its first item
  int fold;                 ///< the unit's next segment
  u32 issued;               ///< stages filled, or left to attention, since the start of the launch
};

/// What fills a stage.
struct Item {
  const u8 *from;
  u32 bytes;
};

/// A working warp's end of its ring.
template <class L> struct Ring {
  const u8 *base;
  u64 *full;  ///< one mbarrier per stage
  u32 taken;  ///< stages consumed since the start of the launch

  PHASEC_DEVICE static u8 *stages(const Cta &cta, int ring) {
    return ptx::shared_base() + L::ring_offset + (i64)ring * L::stages * L::stage_bytes;
  }
  PHASEC_DEVICE static u64 *barriers(const Cta &cta, int ring) { return (u64 *)(ptx::shared_base() + L::barriers_offset) + ring * L::stages; }
  /// What the warp has published of `taken`.
  PHASEC_DEVICE static u32 *published(const Cta &cta, int ring) { return (u32 *)(ptx::shared_base() + L::taken_offset) + ring; }

  PHASEC_DEVICE void open(const Cta &cta) {
    base = stages(cta, cta.warp);
    full = barriers(cta, cta.warp);
    taken = 0;
    if (cta.lane == 0) {
      *published(cta, cta.warp) = 0;
      for (int i = 0; i < L::stages; i++) ptx::mbar_init(full + i, 1);
    }
    ptx::mbar_init_fence();
  }
  /// The oldest stage (`ahead` = 0) or the one after it, once its bytes have landed.
  PHASEC_DEVICE const u8 *wait(u32 ahead = 0) const {
    u32 n = taken + ahead;
    ptx::stream_wait(full + n % L::stages, (n / L::stages) & 1u);
    return base + (n % L::stages) * L::stage_bytes;
  }
  /// The stage of item n of the warp's stream, for attention to fill.
  PHASEC_DEVICE u8 *stage(u32 n) const { return (u8 *)base + (n % L::stages) * L::stage_bytes; }
  PHASEC_DEVICE u64 *barrier(u32 n) const { return full + n % L::stages; }
  /// The warp has read the oldest stage; it may be filled again.
  PHASEC_DEVICE void release(const Cta &cta) {
    ptx::sync_warp();
    taken++;
    if (cta.lane == 0) ptx::publish(published(cta, cta.warp), taken);
  }
};

namespace stream {

/// The feeder's copies of instances' tables: lanes are at most two instances apart, and the next one is there in time.
enum : int { kTables = 4 };
template <class L> PHASEC_DEVICE u64 *table(int instance) {
  return (u64 *)(ptx::shared_base() + L::feeder_tables_offset) + instance % kTables * L::table_entries;
}

/// The ring's next item; false when there is none before instance `end`. The rendered `Program::next` knows the steps.
template <class Program, class L> PHASEC_DEVICE bool next(const Cta &cta, Cursor &c, Item &item, int end) {
  while (c.instance < end) {
    if (cta.runs(c.call) && Program::next(cta, table<L>(c.instance), c, item)) return true;
    c.unit = -1;
    c.call += Program::calls(c.step);
    if (++c.step == Program::steps_end(c.instance)) {
      if (++c.instance < L::instances) c.step = Program::steps_begin(c.instance);
    }
  }
  return false;
}

/// What the feeder does from the start of the launch to the end of the stream. One warp.
template <class Program, class L> PHASEC_DEVICE void feed(Cta cta) {
  cta.warp = cta.lane; // the ring that this lane fills
  u8 *base = Ring<L>::stages(cta, cta.warp);
  u64 *full = Ring<L>::barriers(cta, cta.warp);
  Cursor cursor{0, L::first_step, 0, -1, 0, 0};
  Item item{};
  int tables = 0; // instances whose tables are there
  bool more = cta.warp < L::warps, ready = false;
  for (;;) {
    while (tables < L::instances && ptx::any(more && cursor.instance + 1 >= tables)) {
      for (int i = cta.lane; i < L::table_entries; i += 32) table<L>(tables)[i] = cta.launch_table[(i64)tables * L::table_entries + i];
      ptx::sync_warp();
      tables++;
    }
    if (more && !ready) {
      ready = next<Program, L>(cta, cursor, item, tables);
      more = ready || cursor.instance < L::instances;
    }
    if (!ptx::any(more)) return;
    bool mine = ready && cursor.issued - ptx::poll(Ring<L>::published(cta, cta.warp)) < L::stages;
    if (!ptx::any(mine)) {
      if (!ptx::any(more && !ready)) ptx::feeder_pause();
      continue;
    }
    u64 *bar = full + cursor.issued % L::stages;
    ptx::stream_expect(mine, bar, item.bytes);
    ptx::stream_copy(mine && item.bytes > 0, base + (cursor.issued % L::stages) * L::stage_bytes, item.from, item.bytes, bar);
    ptx::stream_commit(mine, bar);
    if (!mine) continue;
    cursor.issued++;
    ready = false;
  }
}

} // namespace stream
