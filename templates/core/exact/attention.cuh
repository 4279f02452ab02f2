// attention.cuh (exact): softmax(q k) v one row at a time, in row order, with a running maximum: every rounding has its
// place. Scores are in units of log2.
#pragma once
#include "../../phases/attn.cuh"

namespace core {

/// Eight pairs of one warp. Lane l holds dims l, l + 32, ... of each; in memory a pair's dims follow one another.
template <class H> struct Attention {
  static constexpr int pairs_max = attn::kPairs, lane_dims = (H::head_dim + 31) / 32, groups = pairs_max * H::head_dim / 2;
  float max[pairs_max], sum[pairs_max], acc[pairs_max][lane_dims];
  const float *queries;
  float score_scale;
  int position, pair0, pairs; ///< of the tile's first token; its first pair within that token

  /// Queries as fp32 [pairs][head_dim]. All threads; a warp a pair.
  PHASEC_DEVICE void stage(const Cta &cta, const attn::Unit &u) const {
    float *to = (float *)(ptx::shared_base() + H::queries_offset);
    for (int p = cta.warp; p < u.pairs; p += H::warps) {
      heads::Head<H> q = attn::query<H>(cta, u, p);
#pragma unroll
      for (int j = 0; j < lane_dims; j++)
        if (q.has(j)) to[p * H::head_dim + cta.lane + 32 * j] = q.v[j];
    }
  }
  PHASEC_DEVICE void open(const Cta &cta, const attn::Unit &u) {
    queries = (const float *)(ptx::shared_base() + H::queries_offset);
    float scale = H::scale();
    if (H::kv_scales >= 0) scale = scale * ((const float *)cta.table[H::kv_scales < 0 ? 0 : H::kv_scales])[0];
    score_scale = scale * math::kLog2e;
    position = u.context + u.tile * pairs_max / H::group;
    pair0 = u.tile * pairs_max % H::group;
    pairs = u.pairs;
#pragma unroll
    for (int p = 0; p < pairs_max; p++) {
      max[p] = -math::infinity();
      sum[p] = 0.0f;
#pragma unroll
      for (int j = 0; j < lane_dims; j++) acc[p][j] = 0.0f;
    }
  }
  /// Appends rows row0 .. row0 + rows - 1. A pair sees the rows up to its own token's position. One warp.
  PHASEC_DEVICE void attend(const Cta &cta, const u8 *k, const u8 *v, int row0, int rows) {
#pragma unroll 1
    for (int r = 0; r < rows; r++, k += H::row_stride, v += H::row_stride) {
      float kr[lane_dims], vr[lane_dims];
#pragma unroll
      for (int j = 0; j < lane_dims; j++) {
        int d = cta.lane + 32 * j;
        kr[j] = d < H::head_dim ? numeric::load((const typename H::Row *)k + d) : 0.0f;
        vr[j] = d < H::head_dim ? numeric::load((const typename H::Row *)v + d) : 0.0f;
      }
#pragma unroll
      for (int p = 0; p < pairs_max; p++) {
        if (p >= pairs || row0 + r > position + (pair0 + p) / H::group) continue;
        float dot = 0.0f;
#pragma unroll
        for (int j = 0; j < lane_dims; j++)
          if (cta.lane + 32 * j < H::head_dim) dot = ptx::fma(queries[p * H::head_dim + cta.lane + 32 * j], kr[j], dot);
        append_row(p, ptx::butterfly_sum(dot) * score_scale, vr);
      }
    }
  }
  /// Appends the state that `from` holds, whose rows follow this one's. One warp.
  PHASEC_DEVICE void append(const Cta &cta, const float *from) {
#pragma unroll
    for (int p = 0; p < pairs_max; p++) {
      if (p >= pairs) break;
      float m = max[p] < from[2 * p] ? from[2 * p] : max[p];
      if (m == -math::infinity()) continue;
      float fa = math::exp2(max[p] - m), fb = math::exp2(from[2 * p] - m);
      sum[p] = ptx::fma(from[2 * p + 1], fb, sum[p] * fa);
#pragma unroll
      for (int j = 0; j < lane_dims; j++)
        if (cta.lane + 32 * j < H::head_dim) acc[p][j] = ptx::fma(from[at(p, cta.lane + 32 * j)], fb, acc[p][j] * fa);
      max[p] = m;
    }
  }
  PHASEC_DEVICE void put(const Cta &cta, float *to) const {
#pragma unroll
    for (int p = 0; p < pairs_max; p++) {
      if (p >= pairs) break;
      if (cta.lane == 0) {
        to[2 * p] = max[p];
        to[2 * p + 1] = sum[p];
      }
#pragma unroll
      for (int j = 0; j < lane_dims; j++)
        if (cta.lane + 32 * j < H::head_dim) to[at(p, cta.lane + 32 * j)] = acc[p][j];
    }
  }

  // What follows works on states in memory, two neighbouring values of a pair at a time. All threads of a CTA share the groups.
  struct Group {
    float max, sum, value[2];
  };

  /// The states of the CTA's warps, merged in a tree.
  PHASEC_DEVICE static Group merge_warps(const float *states, int i) {
    constexpr int count = attn::States<H>::kCount;
    Group p[count];
#pragma unroll
    for (int w = 0; w < count; w++) p[w] = load(states + w * H::state_floats, i);
    halve<count>(p);
    return p[0];
  }
  /// The states of a tile's chunks, in tagged words, merged in order: by one lane.
  PHASEC_DEVICE static int merge_parts(int) { return 1; }
  PHASEC_DEVICE static Group merge_chunks(const Cta &cta, const u64 *chunks, int count, int i, int, int) {
    Group p = load(cta, chunks, i);
#pragma unroll 1
    for (int c = 1; c < count; c++) append(p, load(cta, chunks + c * H::state_floats, i));
    return p;
  }
  PHASEC_DEVICE static void store(const Cta &cta, const Group &p, u64 *to, int i) {
    u32 tag = cta.round + 1u;
    ptx::store_tagged2(to + attn::States<H>::kHead + 2 * i, p.value[0], p.value[1], tag);
    if (dim(i, 0) == 0) ptx::store_tagged2(to + pair(i, 0) * 2, p.max, p.sum, tag);
  }
  /// The n-th group of those whose pair is one of the tile's first.
  PHASEC_DEVICE static int group_of(int n, int) { return n; }
  /// The pair and dim of value c of group i.
  PHASEC_DEVICE static int pair(int i, int) { return 2 * i / H::head_dim; }
  PHASEC_DEVICE static int dim(int i, int c) { return 2 * i % H::head_dim + c; }
  static constexpr int group_values = 2;
  PHASEC_DEVICE static attn::Part part(const Group &p, int c) { return attn::Part{p.max, p.sum, p.value[c]}; }

private:
  /// Merges N states into the first, from the middle on.
  template <int N, int Count> PHASEC_DEVICE static void halve(Group (&p)[Count]) {
    if constexpr (N > 1) {
      constexpr int half = (N + 1) / 2;
#pragma unroll
      for (int w = 0; w < N / 2; w++) append(p[w], p[w + half]);
      halve<half>(p);
    }
  }
  PHASEC_DEVICE static Group load(const float *state, int i) {
    const float *head = state + pair(i, 0) * 2, *value = state + attn::States<H>::kHead + 2 * i;
    return Group{head[0], head[1], {value[0], value[1]}};
  }
  PHASEC_DEVICE static Group load(const Cta &cta, const u64 *state, int i) {
    u64 head[2], value[2];
    do {
      ptx::load_tagged2(state + pair(i, 0) * 2, head[0], head[1]);
      ptx::load_tagged2(state + attn::States<H>::kHead + 2 * i, value[0], value[1]);
    } while (!(tagged::there(cta, head[0]) && tagged::there(cta, head[1]) && tagged::there(cta, value[0]) && tagged::there(cta, value[1])) &&
             (ptx::spin_pause(), true));
    return Group{ptx::from_bits(u32(head[0])), ptx::from_bits(u32(head[1])), {ptx::from_bits(u32(value[0])), ptx::from_bits(u32(value[1]))}};
  }
  PHASEC_DEVICE static void append(Group &p, const Group &later) {
    float m = p.max < later.max ? later.max : p.max;
    if (m == -math::infinity()) return;
    float fa = math::exp2(p.max - m), fb = math::exp2(later.max - m);
    p.sum = ptx::fma(later.sum, fb, p.sum * fa);
    for (int c = 0; c < 2; c++) p.value[c] = ptx::fma(later.value[c], fb, p.value[c] * fa);
    p.max = m;
  }
  PHASEC_DEVICE static int at(int p, int d) { return attn::States<H>::kHead + p * H::head_dim + d; }

  PHASEC_DEVICE void append_row(int p, float s, const float *v) {
    float m = max[p] < s ? s : max[p];
    float alpha = math::exp2(max[p] - m), weight = math::exp2(s - m);
    sum[p] = ptx::fma(sum[p], alpha, weight);
#pragma unroll
    for (int j = 0; j < lane_dims; j++) acc[p][j] = ptx::fma(weight, v[j], acc[p][j] * alpha);
    max[p] = m;
  }
};

} // namespace core
