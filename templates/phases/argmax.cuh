// argmax.cuh: the greedy token of each row of logits, found as the logits come: a row tile gives one key per token, the warp
// that completes a group of tiles folds the group, and the warp that completes the last group stores the tokens. The largest
// of a set of keys is the same in whatever order it is looked for, so nothing depends on timing or on the CTA count.
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

/// A tile's logits as keys: that of column first + i stands at logits[token * stride + i].
template <class A> struct TileKeys {
  const float *logits;
  i64 stride;
  int first;
  PHASEC_DEVICE u64 at(int token, int i) const {
    return first + i < A::cols ? key(logits[token * stride + i], first + i) : u64(0);
  }
};
/// Keys that tiles or groups have left.
template <class A> struct StoredKeys {
  const u64 *keys;
  PHASEC_DEVICE u64 at(int token, int i) const { return keys[(i64)token * (A::tiles + A::groups) + i]; }
};

/// Hands every token's largest of `count` keys to store(token, key). One warp, its lanes divided among the tokens.
template <class Keys, class Store> PHASEC_DEVICE void fold(const Cta &cta, const Keys &keys, int count, const Store &store) {
  int width = 32; // lanes of a token
  while (width * cta.tokens > 32) width /= 2;
  int token = cta.lane / width;
  u64 best = 0;
  if (token < cta.tokens)
    for (int i = cta.lane % width; i < count; i += width) best = larger(best, keys.at(token, i));
  for (int mask = width / 2; mask >= 1; mask /= 2) best = larger(best, shfl_xor(best, mask));
  if (token < cta.tokens && cta.lane % width == 0) store(token, best);
}

/// Takes a tile of 16 columns, finished by this warp: logits[token * stride + i].
template <class A> PHASEC_DEVICE void tile(const Cta &cta, int tile, const float *logits, i64 stride) {
  u64 *keys = A::Keys::at(cta);
  auto keep = [&](int at) {
    return [keys, at](int token, u64 best) { keys[(i64)token * (A::tiles + A::groups) + at] = best; };
  };
  fold(cta, TileKeys<A>{logits, stride, tile * weights::kTileRows}, weights::kTileRows, keep(tile));
  int group = tile / A::group, first = group * A::group;
  int count = A::tiles - first < A::group ? A::tiles - first : A::group;
  if (!event::elect_warp(cta, A::elections + group, u32(count))) return;
  fold(cta, StoredKeys<A>{keys + first}, count, keep(A::tiles + group));
  if (!event::elect_warp(cta, A::elections + A::groups, A::groups)) return;
  i32 *y = A::Y::at(cta);
  fold(cta, StoredKeys<A>{keys + A::tiles}, A::groups, [y](int token, u64 best) { y[token] = column(best); });
}

/// A step of its own, for logits that no head of this layer makes: the grid's warps take tiles in turn.
template <class A> PHASEC_DEVICE void run(const Cta &cta) {
  A::await(cta, 0);
  for (int t = cta.cta * A::warps + cta.warp; t < A::tiles; t += ptx::ctas() * A::warps)
    tile<A>(cta, t, A::X::at(cta) + t * weights::kTileRows, A::cols);
}

} // namespace argmax
