// stream.cuh: the byte stream. Each warp owns a ring of stages in shared memory and fetches, in the plan's order, every
// weight segment and KV block it will compute with: across phases and instances, gated by nothing but free stages. What it
// fetches never depends on activations, so loads stay in flight while the CTA waits for an event.
#pragma once
#include "cta.cuh"

/// Where a warp's stream stands: the next item to fetch.
struct Cursor {
  int instance, step, call; ///< step counts over all bodies, call over the steps of all instances
  int item;                 ///< this warp's next segment (or unit, for KV) of the step
  int row, half;            ///< attention: next row within the unit's range; 0 fetches K, 1 fetches V
};

/// One warp's ring.
template <class L> struct Ring {
  u8 *base;
  u64 *full;          ///< one mbarrier per stage
  u32 issued, taken;  ///< stages filled and consumed since the start of the launch
  Cursor cursor;

  PHASEC_DEVICE void open(const Cta &cta) {
    base = cta.shared + L::ring_offset + (i64)cta.warp * L::stages * L::stage_bytes;
    full = (u64 *)(cta.shared + L::barriers_offset) + cta.warp * L::stages;
    issued = taken = 0;
    cursor = Cursor{0, L::first_step, 0, 0, 0, 0};
    if (cta.lane == 0)
      for (int i = 0; i < L::stages; i++) ptx::mbar_init(full + i, ptx::stream_arrivals());
    ptx::mbar_init_fence();
  }
  /// Opens the next free stage for `bytes`; the caller copies into it and commits.
  PHASEC_DEVICE u8 *begin(u32 bytes) {
    ptx::stream_expect(full + issued % L::stages, bytes);
    return base + (issued % L::stages) * L::stage_bytes;
  }
  PHASEC_DEVICE u64 *barrier() const { return full + issued % L::stages; }
  PHASEC_DEVICE void commit() {
    ptx::stream_commit(full + issued % L::stages);
    issued++;
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

namespace stream {

/// Fills one free stage with the next item, if the stream has one. The rendered `Program::fetch` knows the steps.
template <class Program, class L> PHASEC_DEVICE void advance(const Cta &cta, Ring<L> &ring) {
  Cursor &c = ring.cursor;
  while (c.instance < L::instances) {
    const u64 *table = cta.launch_table + (i64)c.instance * L::table_entries;
    if (cta.runs(c.call) && Program::fetch(cta, table, ring)) return;
    c.item = c.row = c.half = 0;
    c.call++;
    if (++c.step == Program::steps_end(c.instance)) {
      if (++c.instance < L::instances) c.step = Program::steps_begin(c.instance);
    }
  }
}

/// Fills every stage of the ring: called once, before anything waits.
template <class Program, class L> PHASEC_DEVICE void prime(const Cta &cta, Ring<L> &ring) {
#pragma unroll 1
  for (int i = 0; i < L::stages; i++) advance<Program>(cta, ring);
}

} // namespace stream
