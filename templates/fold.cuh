// fold.cuh: where the workers of a CTA meet. A worker keeps its sums in registers and lays them down when it leaves a unit; of a
// unit that several workers share, each lays down a piece, and the warp that brings the last adds them up in order.
#pragma once
#include "cta.cuh"

/// Sums[token][row] that a warp lays down: of the unit that it begins and of the one that it joins. A barrier of all workers lies between
/// the pieces of one pass and the next, and between them and attention, which has the same memory.
template <class L> struct Pieces {
  enum : int { kBegun, kJoined, kKinds };
  PHASEC_DEVICE static float *of(int warp, int kind) {
    return (float *)(ptx::shared_base() + L::pieces_offset) + (warp * kKinds + kind) * L::tokens * 16;
  }
  /// Pieces that a unit has got, by the warp that begins it; zero between passes.
  PHASEC_DEVICE static u32 *arrived(int i) { return (u32 *)(ptx::shared_base() + L::arrived_offset) + i; }
  PHASEC_DEVICE static void open() {
    if (ptx::thread() < L::warps) *arrived(ptx::thread()) = 0;
  }
  /// True for the warp that brings the last of `n` pieces; it sees them all.
  PHASEC_DEVICE static bool complete(const Cta &cta, int i, u32 n) {
    ptx::sync_warp();
    u32 old = 0;
    if (cta.lane == 0) {
      old = ptx::add_shared(arrived(i), 1u);
      if (old == n - 1u) *arrived(i) = 0;
    }
    return ptx::shfl(old, 0) == n - 1u; // meets behind lane 0's acquire
  }
};
