// heads.cuh: one attention head of one token, from the raw sums of a qkv GEMV: bias, q/k-norm, rotary embedding. One warp a head;
// lane l holds dims l, l + 32, ...
#pragma once
#include "sequences.cuh"

namespace heads {

/// Rows of a qkv GEMV are heads: q, gate, k, v.
template <class H> struct Rows {
  static constexpr int gates = H::gated ? H::heads : 0, k0 = H::heads + gates, v0 = k0 + H::kv_heads;
  PHASEC_DEVICE static bool is_q(int head) { return head < H::heads; }
  PHASEC_DEVICE static bool is_gate(int head) { return head >= H::heads && head < k0; }
  PHASEC_DEVICE static bool is_k(int head) { return head >= k0 && head < v0; }
  /// The KV head whose attention needs it.
  PHASEC_DEVICE static int kv_head(int head) {
    constexpr int group = H::heads / H::kv_heads;
    return is_q(head) ? head / group : is_gate(head) ? (head - H::heads) / group : is_k(head) ? head - k0 : head - v0;
  }
};

template <class H> struct Head {
  static constexpr int dims = (H::head_dim + 31) / 32;
  float v[dims];

  PHASEC_DEVICE static bool has(int j) { return H::head_dim % 32 == 0 || ptx::lane() + 32 * j < H::head_dim; }

  PHASEC_DEVICE void load(const Cta &cta, int token, int head) {
    i64 first = (i64)token * H::rows + head * H::head_dim, at[dims];
#pragma unroll
    for (int j = 0; j < dims; j++) at[j] = first + (has(j) ? cta.lane + 32 * j : 0);
    ::load<typename H::Raw>(cta, at, v);
#pragma unroll
    for (int j = 0; j < dims; j++) v[j] = has(j) ? v[j] : 0.0f;
    if (present<typename H::Bias>)
#pragma unroll
      for (int j = 0; j < dims; j++)
        if (has(j)) v[j] = v[j] + numeric::load(H::Bias::at(cta) + H::checkpoint_row(head * H::head_dim) + cta.lane + 32 * j);
  }

  /// Weights of a norm.
  template <class Gamma> PHASEC_DEVICE static void weights(const Cta &cta, float (&gamma)[dims]) {
#pragma unroll
    for (int j = 0; j < dims; j++) gamma[j] = has(j) ? numeric::load(Gamma::at(cta) + cta.lane + 32 * j) : 0.0f;
  }
  /// RMS norm: 32 chains over the dims, a butterfly.
  PHASEC_DEVICE void norm(const float (&gamma)[dims]) {
    float acc = 0.0f;
#pragma unroll
    for (int j = 0; j < dims; j++)
      if (has(j)) acc = ptx::fma(v[j], v[j], acc);
    float factor = ptx::div(1.0f, ptx::sqrt(ptx::div(ptx::butterfly_sum(acc), float(H::head_dim)) + H::eps()));
#pragma unroll
    for (int j = 0; j < dims; j++) v[j] = (v[j] * factor) * (H::one_plus ? 1.0f + gamma[j] : gamma[j]);
  }

  /// The value that dim lane + 32 j turns with. All lanes call.
  PHASEC_DEVICE float other(const Cta &cta, int j) const {
    constexpr int half = H::rotary / 2, apart = half / 32, shift = half % 32;
    if constexpr (H::interleaved) return ptx::from_bits(ptx::shfl_xor(ptx::bits(v[j]), 1));
    bool first = cta.lane + 32 * j < half;
    float up = at(j + apart), down = at(j - apart);
    if constexpr (shift != 0) { // the partner is another lane's, in this register or the next
      float near = shuffled(up, cta.lane + shift), far = shuffled(at(j + apart + 1), cta.lane + shift);
      up = cta.lane + shift < 32 ? near : far;
      near = shuffled(down, cta.lane - shift), far = shuffled(at(j - apart - 1), cta.lane - shift);
      down = cta.lane >= shift ? near : far;
    }
    return first ? up : down;
  }

private:
  PHASEC_DEVICE float at(int j) const {
    float r = 0.0f;
#pragma unroll
    for (int i = 0; i < dims; i++) r = i == j ? v[i] : r;
    return r;
  }
  PHASEC_DEVICE static float shuffled(float v, int lane) { return ptx::from_bits(ptx::shfl(ptx::bits(v), lane & 31)); }
};

/// Rotary embedding (Su et al., 2021) of the first `rotary` dims.
template <class H> struct Rotation {
  static constexpr int turning = H::rotary > 0 ? (H::rotary + 31) / 32 : 1, half = H::rotary / 2;
  float cosine[turning], sine[turning];

  /// A position's row holds cosines, then sines.
  PHASEC_DEVICE void load(const Cta &cta, const float *row) {
#pragma unroll
    for (int j = 0; j < turning; j++) {
      int d = cta.lane + 32 * j;
      if (d >= H::rotary) continue;
      int i = H::interleaved ? d / 2 : d < half ? d : d - half;
      cosine[j] = row[i], sine[j] = row[half + i];
    }
  }
  PHASEC_DEVICE void turn(const Cta &cta, Head<H> &h) const {
    float partner[Head<H>::dims];
#pragma unroll
    for (int j = 0; j < Head<H>::dims; j++) partner[j] = h.other(cta, j);
#pragma unroll
    for (int j = 0; j < turning; j++) {
      int d = cta.lane + 32 * j;
      if (d >= H::rotary) continue;
      bool first = H::interleaved ? d % 2 == 0 : d < half;
      float turned = partner[j] * sine[j];
      h.v[j] = first ? ptx::fma(h.v[j], cosine[j], -turned) : ptx::fma(h.v[j], cosine[j], turned);
    }
  }
};

/// A finished head: bias, then for q and k norm and rotation at the token's position, which are asked for before the sums are
/// waited for.
template <class H> PHASEC_DEVICE Head<H> finished(const Cta &cta, int token, int head, int position) {
  constexpr bool norm = present<typename H::QNorm>;
  bool q = Rows<H>::is_q(head), k = Rows<H>::is_k(head);
  float gamma[Head<H>::dims] = {}; // neither is loaded for a head of V
  Rotation<H> rotation{};
  if constexpr (norm) {
    if (q) Head<H>::template weights<typename H::QNorm>(cta, gamma);
    if (k) Head<H>::template weights<typename H::KNorm>(cta, gamma);
  }
  if constexpr (H::rotary > 0)
    if (q || k) rotation.load(cta, H::Rope::at(cta) + (i64)position * H::rotary);
  Head<H> h;
  h.load(cta, token, head);
  if constexpr (norm)
    if (q || k) h.norm(gamma);
  if constexpr (H::rotary > 0)
    if (q || k) rotation.turn(cta, h);
  return h;
}

/// The scale by which K (or V) values are divided in a quantised cache; 1 otherwise.
template <class H> PHASEC_DEVICE float kv_scale(const Cta &cta, bool is_v) {
  return H::kv_scales < 0 ? 1.0f : ((const float *)cta.table[H::kv_scales < 0 ? 0 : H::kv_scales])[is_v ? 1 : 0];
}

/// Stores a finished K or V head as a cache row: quantised by division. `to` may be in any memory.
template <class H, class Row> PHASEC_DEVICE void store_row(const Cta &cta, const Head<H> &h, float scale, Row *to) {
#pragma unroll
  for (int j = 0; j < Head<H>::dims; j++)
    if (Head<H>::has(j)) numeric::store(to + cta.lane + 32 * j, H::kv_scales < 0 ? h.v[j] : ptx::div(h.v[j], scale));
}

/// The cache row of a token that this step appends.
template <class H, class Row> PHASEC_DEVICE Row *cache_row(const Cta &cta, int sequence, int position, int kv_head, bool is_v) {
  sequences::Rows<typename H::S> rows(cta.table, sequence, kv_head);
  return (Row *)((u8 *)cta.table[is_v ? H::S::cache_v : H::S::cache_k] + rows.offset(position));
}

} // namespace heads
