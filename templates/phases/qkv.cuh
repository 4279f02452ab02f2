// qkv.cuh: q, k, v (and gate) projections. The warp that completes a head's last row tile finishes the head for every token:
// bias, q/k-norm, rotary embedding, then q and gate to the workspace, k and v to this step's fresh rows and, with `append`,
// to the paged cache. Rows are q heads, gate heads, k heads, v heads (the packer brings them into that order).
#pragma once
#include "../gemv.cuh"
#include "../sequences.cuh"

namespace qkv {

/// RMS norm of one head: 32 chains over the dims, a butterfly. v is the head's row of raw sums, read and written by lane.
template <class H, class Gamma> PHASEC_DEVICE void head_norm(const Cta &cta, float *v) {
  float acc = 0.0f;
  for (int d = cta.lane; d < H::head_dim; d += 32) acc = ptx::fma(v[d], v[d], acc);
  float factor = ptx::div(1.0f, ptx::sqrt(ptx::div(ptx::butterfly_sum(acc), float(H::head_dim)) + H::eps()));
  for (int d = cta.lane; d < H::head_dim; d += 32) {
    float g = numeric::load(Gamma::at(cta) + d);
    v[d] = (v[d] * factor) * (H::one_plus ? 1.0f + g : g);
  }
  ptx::sync_warp();
}

/// Rotary embedding (Su et al., 2021) of the first `rotary` dims; row holds cos, then sin.
template <class H> PHASEC_DEVICE void rotate(const Cta &cta, float *v, const float *row) {
  constexpr int half = H::rotary / 2;
  for (int i = cta.lane; i < half; i += 32) {
    int ia = H::interleaved ? 2 * i : i, ib = H::interleaved ? 2 * i + 1 : i + half;
    float a = v[ia], b = v[ib], c = row[i], s = row[half + i];
    v[ia] = ptx::fma(a, c, -(b * s));
    v[ib] = ptx::fma(b, c, a * s);
  }
  ptx::sync_warp();
}

/// Stores a k or v head: quantised by division, into the fresh rows and the cache.
template <class H> PHASEC_DEVICE void store_kv(const Cta &cta, int token, int sequence, int position, int head, bool is_v,
                                               const float *v) {
  using Row = typename H::Fresh::Type;
  float scale = H::kv_scales < 0 ? 1.0f : ((const float *)cta.table[H::kv_scales < 0 ? 0 : H::kv_scales])[is_v ? 1 : 0];
  Row *fresh = (is_v ? H::FreshV::at(cta) : H::Fresh::at(cta)) + ((i64)token * H::kv_heads + head) * H::head_dim;
  Row *cache = nullptr;
  if (H::append)
    cache = (Row *)((u8 *)cta.table[is_v ? H::S::cache_v : H::S::cache_k] +
                    sequences::row_offset<typename H::S>(cta, cta.table, sequence, position, head));
  for (int d = cta.lane; d < H::head_dim; d += 32) {
    float y = H::kv_scales < 0 ? v[d] : ptx::div(v[d], scale);
    numeric::store(fresh + d, y);
    if (H::append) numeric::store(cache + d, y);
  }
}

/// Finishes one head of every token. One warp.
template <class G, class H> PHASEC_DEVICE void finish_head(const Cta &cta, int head) {
  constexpr int gates = H::gated ? H::heads : 0, k0 = H::heads + gates, v0 = k0 + H::kv_heads;
  bool is_q = head < H::heads, is_k = head >= k0 && head < v0;
#pragma unroll 1
  for (int token = 0; token < cta.tokens; token++) {
    int sequence = sequences::of_token<typename H::S>(cta, token);
    int position = sequences::context<typename H::S>(cta)[sequence] + token - sequences::first<typename H::S>(cta)[sequence];
    float *v = H::Raw::at(cta) + (i64)token * G::rows + head * H::head_dim;
    if (present<typename H::Bias>)
      for (int d = cta.lane; d < H::head_dim; d += 32)
        v[d] = v[d] + numeric::load(H::Bias::at(cta) + G::checkpoint_row(head * H::head_dim) + d);
    if (present<typename H::QNorm>) {
      if (is_q) head_norm<H, typename H::QNorm>(cta, v);
      if (is_k) head_norm<H, typename H::KNorm>(cta, v);
    }
    ptx::sync_warp();
    if (H::rotary > 0 && (is_q || is_k)) rotate<H>(cta, v, H::Rope::at(cta) + (i64)position * H::rotary);
    if (is_q || (head < k0 && H::gated)) {
      bf16 *to = is_q ? H::Q::at(cta) : (bf16 *)H::Gate::at(cta);
      to += (i64)token * H::heads * H::head_dim + (is_q ? head : head - H::heads) * H::head_dim;
      for (int d = cta.lane; d < H::head_dim; d += 32) numeric::store(to + d, v[d]);
    } else {
      store_kv<H>(cta, token, sequence, position, is_k ? head - k0 : head - v0, !is_k, v);
    }
  }
  int group = H::heads / H::kv_heads;
  H::signal(cta, is_q ? head / group : head < k0 ? (head - H::heads) / group : is_k ? head - k0 : head - v0);
}

/// Stores a tile's raw rows; the warp that brings a head's last tile finishes the head.
template <class H> struct Finish {
  template <class G> PHASEC_DEVICE static void rows(const Cta &cta, int tile, const float *sums) {
    for (int i = cta.lane; i < cta.tokens * gemv::kTileRows; i += 32)
      H::Raw::at(cta)[(i64)(i / gemv::kTileRows) * G::rows + tile * gemv::kTileRows + i % gemv::kTileRows] = sums[i];
    int head = tile * gemv::kTileRows / H::head_dim;
    if (event::elect_warp(cta, H::head_elections + head, H::head_dim / gemv::kTileRows)) finish_head<G, H>(cta, head);
  }
};

} // namespace qkv
