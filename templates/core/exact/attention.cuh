// attention.cuh (exact): softmax(q k) v one row at a time, in row order, with a running maximum (Milakov and Gimelshein,
// 2018): every rounding has its place. Scores are in units of log2.
#pragma once
#include "../../numeric.cuh"

namespace core {

/// The state of one (token, query head) pair: maximum, sum, weighted values. Lane l holds dims l, l + 32, ...
template <class H> struct PairState {
  static constexpr int values = (H::head_dim + 31) / 32;
  float max, sum, acc[values];

  PHASEC_DEVICE void clear() {
    max = -math::infinity();
    sum = 0.0f;
#pragma unroll
    for (int j = 0; j < values; j++) acc[j] = 0.0f;
  }
  /// To and from head_dim + 2 floats: max, sum, acc. One warp.
  PHASEC_DEVICE void store(float *to) const {
    int lane = ptx::lane();
    if (lane == 0) {
      to[0] = max;
      to[1] = sum;
    }
#pragma unroll
    for (int j = 0; j < values; j++)
      if (lane + 32 * j < H::head_dim) to[2 + lane + 32 * j] = acc[j];
  }
  PHASEC_DEVICE void load(const float *from) {
    max = from[0];
    sum = from[1];
#pragma unroll
    for (int j = 0; j < values; j++) acc[j] = ptx::lane() + 32 * j < H::head_dim ? from[2 + ptx::lane() + 32 * j] : 0.0f;
  }
  /// Appends the rows of `later`, which follow this state's rows.
  PHASEC_DEVICE void merge(const PairState &later) {
    float m = max < later.max ? later.max : max;
    if (m == -math::infinity()) return;
    float fa = math::exp2(max - m), fb = math::exp2(later.max - m);
    sum = ptx::fma(later.sum, fb, sum * fa);
#pragma unroll
    for (int j = 0; j < values; j++) acc[j] = ptx::fma(later.acc[j], fb, acc[j] * fa);
    max = m;
  }
  /// Appends one row with score s and this lane's values v.
  PHASEC_DEVICE void append(float s, const float *v) {
    float m = max < s ? s : max;
    float alpha = math::exp2(max - m), p = math::exp2(s - m);
    sum = ptx::fma(sum, alpha, p);
#pragma unroll
    for (int j = 0; j < values; j++) acc[j] = ptx::fma(p, v[j], acc[j] * alpha);
    max = m;
  }
};

/// Appends rows row0 .. row0 + rows - 1 (K and V `stride` elements apart) to the states of `pairs` pairs. Pair p is token
/// (pair0 + p) / group of its tile, whose first token is at `position`: it sees the rows up to its own position.
template <class H>
PHASEC_DEVICE void attend(const float *queries, const typename H::Row *k, const typename H::Row *v, int stride, int row0,
                          int rows, int position, int pair0, int pairs, float scale, PairState<H> *state) {
  constexpr int values = PairState<H>::values;
  float score_scale = scale * math::kLog2e;
  int lane = ptx::lane();
#pragma unroll 1
  for (int r = 0; r < rows; r++) {
    float kr[values], vr[values];
#pragma unroll
    for (int j = 0; j < values; j++) {
      bool in = lane + 32 * j < H::head_dim;
      kr[j] = in ? numeric::load(k + (i64)r * stride + lane + 32 * j) : 0.0f;
      vr[j] = in ? numeric::load(v + (i64)r * stride + lane + 32 * j) : 0.0f;
    }
#pragma unroll
    for (int p = 0; p < 8; p++) {
      if (p >= pairs || row0 + r > position + (pair0 + p) / H::group) continue;
      float dot = 0.0f;
#pragma unroll
      for (int j = 0; j < values; j++)
        if (lane + 32 * j < H::head_dim) dot = ptx::fma(queries[p * H::head_dim + lane + 32 * j], kr[j], dot);
      state[p].append(ptx::butterfly_sum(dot) * score_scale, vr);
    }
  }
}

} // namespace core
