// stream.cuh: the byte stream. Each warp owns a ring of stages in shared memory and fetches, in the plan's order, every
// weight segment and KV block it will compute with: across phases and instances, gated by nothing but free stages. What it
// fetches never depends on activations, so loads stay in flight while the CTA waits for an event.
#pragma once
#include "cta.cuh"

/// Where a warp's stream stands: the next item to fetch. In shared memory, where advance() finds it.
struct Cursor {
  int instance, step, call; ///< step counts over all bodies, call over the steps of all instances
  int unit;                 ///< of the step; -1 before its first item
  int fold;                 ///< GEMV: the unit's next segment; attention: 0 fetches K, 1 fetches V
  int row, row_end;         ///< attention: next row of this warp, and behind its last in the unit
  int sequence, head;       ///< attention: of the unit
  u32 issued;               ///< stages filled since the start of the launch
};

/// The filling end of a warp's ring.
template <class L> struct Filler {
  u8 *base;
  u64 *full;   ///< one mbarrier per stage
  Cursor next;

  PHASEC_DEVICE static Cursor &cursor(const Cta &cta) { return ((Cursor *)(cta.shared + L::cursors_offset))[cta.warp]; }
  PHASEC_DEVICE explicit Filler(const Cta &cta) {
    base = cta.shared + L::ring_offset + (i64)cta.warp * L::stages * L::stage_bytes;
    full = (u64 *)(cta.shared + L::barriers_offset) + cta.warp * L::stages;
    next = cursor(cta);
  }
  /// Opens the next free stage for `bytes`; the caller copies into it and commits.
  PHASEC_DEVICE u8 *begin(u32 bytes) {
    ptx::stream_expect(barrier(), bytes);
    return base + (next.issued % L::stages) * L::stage_bytes;
  }
  PHASEC_DEVICE u64 *barrier() const { return full + next.issued % L::stages; }
  PHASEC_DEVICE void commit() {
    ptx::stream_commit(barrier());
    next.issued++;
  }
};

/// The reading end.
template <class L> struct Ring {
  const u8 *base;
  u64 *full;
  u32 taken; ///< stages consumed since the start of the launch

  PHASEC_DEVICE void open(const Cta &cta) {
    base = cta.shared + L::ring_offset + (i64)cta.warp * L::stages * L::stage_bytes;
    full = (u64 *)(cta.shared + L::barriers_offset) + cta.warp * L::stages;
    taken = 0;
    if (cta.lane == 0) {
      Filler<L>::cursor(cta) = Cursor{0, L::first_step, 0, -1, 0, 0, 0, 0, 0, 0};
      for (int i = 0; i < L::stages; i++) ptx::mbar_init(full + i, ptx::stream_arrivals());
    }
    ptx::mbar_init_fence();
  }
  /// The oldest stage (`ahead` = 0) or the one after it, once its bytes have landed.
  PHASEC_DEVICE const u8 *wait(u32 ahead = 0) const {
    u32 n = taken + ahead;
    ptx::stream_wait(full + n % L::stages, (n / L::stages) & 1u);
    return base + (n % L::stages) * L::stage_bytes;
  }
  /// The warp has read the oldest stage; it may be filled again.
  PHASEC_DEVICE void release() {
    ptx::sync_warp();
    taken++;
  }
};

static_assert(sizeof(Cta) <= 128 && sizeof(Cursor) == 40); // the planner has laid shared memory out for them

namespace stream {

/// Fills one free stage with the next item, if the stream has one. The rendered `Program::fetch` knows the steps.
template <class Program, class L> PHASEC_DEVICE void advance_inline(const Cta &cta) {
  Filler<L> ring(cta);
  Cursor &c = ring.next;
  while (c.instance < L::instances) {
    const u64 *table = cta.launch_table + (i64)c.instance * L::table_entries;
    if (cta.runs(c.call) && Program::fetch(cta, table, ring)) break;
    c.unit = -1;
    c.call++;
    if (++c.step == Program::steps_end(c.instance)) {
      if (++c.instance < L::instances) c.step = Program::steps_begin(c.instance);
    }
  }
  ptx::sync_warp(); // all lanes have read the cursor
  if (cta.lane == 0) Filler<L>::cursor(cta) = c;
  ptx::sync_warp();
}

/// The same, called and not inlined: it knows every step, and every step calls it. (Attention inlines it: a call would have to
/// save its many registers.) `shared` is the CTA's shared memory.
template <class Program, class L> PHASEC_CALLED void advance(u8 *shared) {
  advance_inline<Program, L>(launch_cta<L>(shared));
}

/// Fills every stage of the ring: called once, before anything waits.
template <class Program, class L> PHASEC_DEVICE void prime(const Cta &cta) {
#pragma unroll 1
  for (int i = 0; i < L::stages; i++) advance<Program, L>(cta.shared);
}

} // namespace stream
