// fold.cuh: where the warps of a CTA meet: each unit in flight has a buffer of per-segment sums, and the warp that brings the
// last segment folds them in segment order.
#pragma once
#include "cta.cuh"

/// Buffers in which a CTA's warps meet: per unit in flight, sums[segment][token][row].
template <class L> struct FoldBuffers {
  PHASEC_DEVICE static float *sums(const Cta &cta, u32 unit) {
    return (float *)(ptx::shared_base() + L::fold_offset + (unit % L::fold_buffers) * L::fold_bytes);
  }
  PHASEC_DEVICE static u32 *pending(const Cta &cta, u32 unit) {
    return (u32 *)(ptx::shared_base() + L::fold_sync_offset) + unit % L::fold_buffers;
  }
  /// Units that the buffer has seen folded: a count and not an mbarrier, since a warp may be several units ahead.
  PHASEC_DEVICE static u32 *folds(const Cta &cta, u32 unit) { return pending(cta, unit) + L::fold_buffers; }
  PHASEC_DEVICE static void open(const Cta &cta) {
    if (ptx::thread() < L::fold_buffers) *pending(cta, u32(ptx::thread())) = *folds(cta, u32(ptx::thread())) = 0;
  }
  /// Waits until the units that used the buffer before have been folded.
  PHASEC_DEVICE static void acquire(const Cta &cta, u32 unit) {
    u32 before = unit / L::fold_buffers;
    while (i32(ptx::load_shared_acquire(folds(cta, unit)) - before) < 0) ptx::spin_pause(); // all lanes: a warp that parts is slow to meet
    ptx::sync_warp();
  }
  /// True for the warp whose segment was the last of `segments`.
  PHASEC_DEVICE static bool complete(const Cta &cta, u32 unit, u32 segments) {
    ptx::sync_warp();
    u32 old = 0;
    if (cta.lane == 0) {
      old = ptx::add_shared(pending(cta, unit), 1u);
      if (old == segments - 1u) *pending(cta, unit) = 0;
    }
    return ptx::shfl(old, 0) == segments - 1u;
  }
  PHASEC_DEVICE static void release(const Cta &cta, u32 unit) {
    ptx::sync_warp();
    if (cta.lane == 0) ptx::add_shared(folds(cta, unit), 1u);
  }
};
