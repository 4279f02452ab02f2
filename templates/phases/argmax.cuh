// argmax.cuh: the greedy token of each row of logits, found as the logits come: a row tile raises its token's key, which nobody waits
// for, and the CTA that leaves the step last stores the tokens. The largest of a set of keys is the same in whatever order it is looked
// for, so nothing depends on timing or on the CTA count.
#pragma once
#include "../cta.cuh"
#include "../weights/layout.cuh"

namespace argmax {

/// A logit and its column as a number whose order is the choice's: the larger logit (-0 equals 0), then the lower column.
/// NaN lies below -infinity; so it is chosen only where all are NaN, and then column 0.
PHASEC_DEVICE u64 key(float logit, int column) {
  u32 b = ptx::bits(logit), magnitude = b & 0x7fffffffu;
  u32 order = magnitude > 0x7f800000u ? 0u : magnitude == 0u ? 0x80000000u : (b & 0x80000000u) ? ~b : b | 0x80000000u;
  return (u64(order) << 32) | ~u32(column);
}
PHASEC_DEVICE i32 column(u64 key) { return i32(~u32(key)); }

PHASEC_DEVICE u64 larger(u64 a, u64 b) { return a < b ? b : a; }
PHASEC_DEVICE u64 shfl_xor(u64 v, int mask) {
  return (u64(ptx::shfl_xor(u32(v >> 32), mask)) << 32) | ptx::shfl_xor(u32(v), mask);
}

/// Takes a tile of 16 columns, finished by this warp, its lanes divided among the tokens: logits[token * stride + i].
template <class A> PHASEC_DEVICE void tile(const Cta &cta, int tile, const float *logits, i64 stride) {
  int width = weights::kTileRows; // lanes of a token
  while (width * cta.tokens > 32) width /= 2;
  int token = cta.lane / width, first = tile * weights::kTileRows;
  u64 best = 0; // below every key
  if (token < cta.tokens)
    for (int i = cta.lane % width; i < weights::kTileRows && first + i < A::cols; i += width)
      best = larger(best, key(logits[token * stride + i], first + i));
  for (int mask = width / 2; mask >= 1; mask /= 2) best = larger(best, shfl_xor(best, mask));
  if (token < cta.tokens && cta.lane % width == 0) ptx::raise(A::Keys::at(cta) + token, best);
}

/// Ends the step: the CTA that comes last stores the tokens, and leaves the keys for the next step. All threads.
template <class A> PHASEC_DEVICE void close(const Cta &cta) {
  ptx::sync_workers(A::threads);
  if (cta.warp != 0 || !event::elect_warp(cta, A::election, u32(ptx::ctas()))) return;
  if (cta.lane < cta.tokens) A::Y::at(cta)[cta.lane] = column(ptx::take_raised(A::Keys::at(cta) + cta.lane));
}

/// A step of its own, for logits that no head of this layer makes: the grid's warps take tiles in turn.
template <class A> PHASEC_DEVICE void run(const Cta &cta) {
  A::await(cta, 0);
  for (int t = cta.cta * A::warps + cta.warp; t < A::tiles; t += ptx::ctas() * A::warps)
    tile<A>(cta, t, A::X::at(cta) + t * weights::kTileRows, A::cols);
}

} // namespace argmax
